# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A PyTorch checkpoint, converted and compared
#
# The authors released their weights for PyTorch. Here a checkpoint becomes ours and back, and both
# networks are compared module by module. It needs `pip install 'drsformer_jax[torch]'`.

# %%
import tempfile
from pathlib import Path

import numpy as np
import torch

from drsformer_jax import load_weights
from drsformer_jax.checkpoints.weights import save_weights
from drsformer_jax.models.config import PRESETS
from drsformer_jax.parity.torch_drsformer import network

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# A checkpoint as the authors' program writes it: `{"params": state_dict}`. This one is of a small
# network with random weights. Put the path of a downloaded one in its place; `drsformer models`
# lists them.

# %%
torch.manual_seed(0)
checkpoint = folder / "net_g_latest.pth"
torch.save({"params": network(PRESETS["tiny"]).state_dict()}, checkpoint)

weights = load_weights(checkpoint)  # only tensors are read: nothing in the file can run
print(weights.config.summary())

# %% [markdown]
# To safetensors and back to PyTorch: the same numbers.

# %%
save_weights(folder / "drsformer.safetensors", weights)
save_weights(folder / "back.pth", load_weights(folder / "drsformer.safetensors"))
before = torch.load(checkpoint, weights_only=True)["params"]
after = torch.load(folder / "back.pth", weights_only=True)["params"]
assert before.keys() == after.keys()
print("equal:", all(torch.equal(before[name], after[name]) for name in before))

# %% [markdown]
# Both networks on one image. In float32 they differ by rounding; `drsformer parity --dtype float64
# --gradients` shows values and gradients of every module in double precision.

# %%
from drsformer_jax import Derainer

image = np.random.default_rng(0).random((40, 56, 3), np.float32)
theirs = network(weights.config)
theirs.load_state_dict(before)
with torch.no_grad():
    expected = theirs(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].permute(1, 2, 0).numpy()
ours = Derainer(weights.config, weights.params).restore_float(image)
difference = np.abs(ours - expected.clip(0, 1)).max()
print(f"largest difference: {difference:.1e}")
assert difference < 1e-5
