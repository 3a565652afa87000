"""Mixed-scale feed-forward network (MSFN; CVPR 2023, section 3.3)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.models.layers import (
    Convolution,
    DepthwiseConvolution,
    PairedDepthwiseConvolution,
    is_watched,
)
from drsformer_jax.ops.block_convolution import LANES, blocks_of
from drsformer_jax.ops.depthwise import Borders
from drsformer_jax.ops.mixed_scale_by_blocks import mixed_scale_by_blocks
from drsformer_jax.ops.platform import TPU, target
from drsformer_jax.ops.rows import RowShards, clear_outside, with_neighbours

# The form for TPU takes squares of 2 x 2 pixels for images beyond this size: for small ones, making
# squares and their kernels costs more than they save.
PIXELS_WITHOUT_SQUARES = 64 * 64

# Blocks of squares that it computes at a time.
BLOCKS_AT_A_TIME = 4

# How far the kernels of either scale reach, at most.
REACH = 2


class MixedScaleFeedForward(nn.Module):
    """Two depthwise scales, their halves crossed, two scales again, and back to C channels.

    rows: how the rows of the image are split over devices. Both rounds of convolutions then work
    with one exchange of x, which has the fewest channels: the first one computes for itself what
    the second one needs of the neighbours' rows.
    platform: that the program is for, see `ops.platform`. On CPU and GPU, where each padding is a
    pass over memory, the expanded image is padded once for both depthwise scales, and these write
    the padding of the next two. In the form for TPU one layer is not computed after the other:
    while the values of modules are captured, it is not taken.
    """

    hidden_channels: int
    use_bias: bool = False
    precision: lax.PrecisionLike = None
    rows: RowShards | None = None
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """B C H W -> B C H W."""
        for_tpu = target(self.platform) == TPU
        if for_tpu and not is_watched(self):
            return self._by_blocks(x)
        hidden, rows = self.hidden_channels, self.rows
        options: dict[str, Any] = {
            "use_bias": self.use_bias,
            "precision": self.precision,
            "platform": self.platform,
        }
        halo = 0 if rows is None else REACH
        if rows is not None:
            x = with_neighbours(x, 2 * halo, rows)
        expanded = Convolution(hidden * 2, 1, **options, name="project_in")(x)
        if rows is not None and self.use_bias:
            expanded = clear_outside(expanded, rows, 2 * halo)
        border = 0 if for_tpu and rows is None else REACH
        shared: dict[str, Any] = {
            "borders": Borders(2 * halo, border),
            "padding": 2 * border,
            "has_halo": rows is not None,
        }
        fine = nn.relu(DepthwiseConvolution(3, **options, name="dwconv3x3")(expanded, **shared))
        coarse = nn.relu(DepthwiseConvolution(5, **options, name="dwconv5x5")(expanded, **shared))
        if rows is not None:
            fine, coarse = (clear_outside(scale, rows, halo) for scale in (fine, coarse))
        # hidden may be odd: one pair of the grouped convolutions then straddles the seam.
        halves = zip(jnp.split(fine, 2, axis=1), jnp.split(coarse, 2, axis=1), strict=True)
        first, second = (jnp.concatenate(half, axis=1) for half in halves)
        paired: dict[str, Any] = {"border": border, "has_halo": rows is not None}
        first = nn.relu(
            PairedDepthwiseConvolution(3, **options, name="dwconv3x3_1")(first, **paired)
        )
        second = nn.relu(
            PairedDepthwiseConvolution(5, **options, name="dwconv5x5_1")(second, **paired)
        )
        mixed = jnp.concatenate([first, second], axis=1)
        return Convolution(x.shape[1], 1, **options, name="project_out")(mixed)

    def _by_blocks(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[2:]
        # Few channels do not fill blocks of 128 either.
        wanted = self.hidden_channels <= LANES or height * width > PIXELS_WITHOUT_SQUARES
        if not (wanted and height % 2 == width % 2 == 0):
            return mixed_scale_by_blocks(
                x, self.variables["params"], self.precision, rows=self.rows
            )
        # Each of two scales has twice so many channels, and a block holds LANES / 4 of them.
        parts = blocks_of(4 * self.hidden_channels, BLOCKS_AT_A_TIME * LANES // 4)
        return mixed_scale_by_blocks(
            x, self.variables["params"], self.precision, phases=2, parts=parts, rows=self.rows
        )
