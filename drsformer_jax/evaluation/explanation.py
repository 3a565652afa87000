"""What the network looks at in one photograph: its own choices, read while it restores it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.errors import UserError
from drsformer_jax.inference import memory
from drsformer_jax.inference.forward import compiled_for_inference
from drsformer_jax.inference.tiles import pad_to_multiple
from drsformer_jax.models.attention import TopKSparseAttention, branch_sizes
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import DRSformer
from drsformer_jax.models.mefc import EXPERT_NAMES, Gate
from drsformer_jax.models.repeated import Params, block_params

# The levels with attention, in the order of the network, and which of num_blocks is theirs.
LEVELS = {
    "encoder_level1": 0, "encoder_level2": 1, "encoder_level3": 2, "latent": 3,
    "decoder_level3": 2, "decoder_level2": 1, "decoder_level1": 0,
}  # fmt: skip
COMPENSATORS = ("encoder_level0", "refinement")


@dataclasses.dataclass(frozen=True)
class Block:
    """A sparse Transformer block: what it has learned, and what it chose for this photograph.

    Attributes:
      level: its name in LEVELS; index: its number in it.
      temperatures: of the heads; branch_weights: of the four branches.
      sizes: the k of the branches.
      branches: heads c c, how many of the four branches keep an entry of the attention map; row:
        query, column: key.
    """

    level: str
    index: int
    temperatures: tuple[float, ...]
    branch_weights: tuple[float, ...]
    sizes: tuple[int, ...]
    branches: np.ndarray

    def shares(self, head: int) -> list[float]:
        """Of the entries of a head, the shares that 0, 1, 2, 3 and 4 branches keep."""
        kept = self.branches[head]
        return [float(np.mean(kept == count)) for count in range(len(self.sizes) + 1)]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One photograph.

    Attributes:
      restored: float32 H W 3 in [0, 1].
      removed: float32 H W, mean of the channels of |image - restored|.
      blocks: all of them, in the order of the network.
      gates: of each compensator, steps x experts; none where the network has no MEFC.
    """

    restored: np.ndarray
    removed: np.ndarray
    blocks: tuple[Block, ...]
    gates: dict[str, np.ndarray]

    def document(self) -> dict[str, Any]:
        """The numbers, as JSON has them; of the choices those of the first head."""
        blocks = [
            {
                "level": block.level,
                "index": block.index,
                "temperatures": block.temperatures,
                "branch_weights": block.branch_weights,
                "channels_per_head": block.branches.shape[-1],
                "k": block.sizes,
                "share_kept_by_0_to_4_branches": block.shares(0),
            }
            for block in self.blocks
        ]
        gates = {name: gate.tolist() for name, gate in self.gates.items()}
        removed = {"mean": float(self.removed.mean()), "largest": float(self.removed.max())}
        return {
            "removed": removed,
            "blocks": blocks,
            "experts": EXPERT_NAMES if gates else [],
            "gates": gates,
        }


def explain(config: DRSformerConfig, params: Params, image: np.ndarray) -> Explanation:
    """Restores a photograph whole, and keeps what the network chose on the way.

    Args:
      config, params: the network, as `load_weights` gives it.
      image: float32 H W 3 in [0, 1].

    Raises:
      UserError: it does not fit in memory.
      FloatingPointError: the network's output is not finite.
    """
    height, width = image.shape[:2]
    _check_fits(config, height, width)
    # Blocks in a loop: they are watched, and of one level stacked.
    config = dataclasses.replace(config, unroll=False)

    def forward(params: Params, image: jax.Array) -> tuple[jax.Array, Params]:
        residual, captured = DRSformer(config).apply(
            {"params": params},
            jnp.transpose(image, (0, 3, 1, 2)),
            mutable=["intermediates"],
            capture_intermediates=_is_choice,
        )
        return image + jnp.transpose(residual, (0, 2, 3, 1)), captured["intermediates"]

    output, captured = compiled_for_inference(forward)(params, pad_to_multiple(image)[None])
    restored = np.asarray(output)[0, :height, :width]
    if not np.isfinite(restored).all():
        raise FloatingPointError("the network's output is not finite: damaged weights?")
    restored = np.clip(restored, 0, 1)
    gates = {
        name: np.asarray(captured[name]["gate"]["__call__"][0])[0]
        for name in COMPENSATORS
        if config.use_mefc
    }
    removed = np.abs(image - restored).mean(axis=2)
    return Explanation(restored, removed, tuple(_blocks(config, params, captured)), gates)


def _is_choice(module: nn.Module, method: str) -> bool:
    """Whether a method's result is kept: the branches' masks, and the experts' weights."""
    if isinstance(module, TopKSparseAttention):
        return method == "choose"
    return isinstance(module, Gate) and method == "__call__"


def _blocks(config: DRSformerConfig, params: Params, captured: Params) -> Iterator[Block]:
    for level, number in LEVELS.items():
        # Of each branch: blocks, batch, heads, c, c.
        masks = np.stack(captured[level]["attn"]["choose"][0])
        branches = masks[:, :, 0].sum(axis=0, dtype=np.uint8)
        for index in range(config.num_blocks[number]):
            attention = block_params(params[level], index)["attn"]
            yield Block(
                level,
                index,
                tuple(np.ravel(attention["temperature"]).tolist()),
                tuple(float(attention[f"attn{branch}"][0]) for branch in range(1, 5)),
                branch_sizes(branches.shape[-1]),
                branches[index],
            )


def _check_fits(config: DRSformerConfig, height: int, width: int) -> None:
    needed, budget = memory.forward_bytes(config, height, width), memory.budget_bytes()
    if needed > budget:
        side = memory.largest_tile(config, budget)
        raise UserError(
            f"{width} x {height} pixels at once take about {needed / 2**30:.1f} GiB of memory, and "
            f"{budget / 2**30:.1f} may be used. In tiles the network would look at each by itself: "
            f"cut out a part, or scale the image down, to about {side} x {side}"
        )
