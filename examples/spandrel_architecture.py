"""DRSformer in programs that load networks with spandrel: chaiNNer, ComfyUI."""

import spandrel
import torch

from drsformer_jax.checkpoints.catalogue import default_weights
from drsformer_jax.checkpoints.infer import infer_config
from drsformer_jax.parity.torch_drsformer import network


class DRSformer(spandrel.Architecture):
    def __init__(self):
        needed = ("patch_embed.proj.weight", "latent.0.attn.attn1", "latent.0.ffn.dwconv5x5.weight")
        super().__init__(id="DRSformer", detect=spandrel.util.KeyCondition.has_all(*needed))

    def load(self, state_dict):
        config = infer_config({name: tuple(value.shape) for name, value in state_dict.items()})
        return spandrel.ImageModelDescriptor(
            network(config), state_dict, self, "Restoration", [f"{config.dim}dim"],
            supports_half=False, supports_bfloat16=True,
            scale=1, input_channels=3, output_channels=3,
            size_requirements=spandrel.SizeRequirements(multiple_of=8),
            tiling=spandrel.ModelTiling.DISCOURAGED,  # attention sums over the whole image
        )  # fmt: skip


spandrel.MAIN_REGISTRY.add(spandrel.ArchSupport.from_architecture(DRSformer()))
model = spandrel.ModelLoader().load_from_file(default_weights())
with torch.no_grad():
    print("restored by", model.architecture.id, tuple(model(torch.rand(1, 3, 45, 70)).shape))
