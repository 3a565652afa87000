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
)
from drsformer_jax.ops.block_convolution import LANES
from drsformer_jax.ops.mixed_scale_by_blocks import mixed_scale_by_blocks


class MixedScaleFeedForward(nn.Module):
    """Two depthwise scales, their halves crossed, two scales again, and back to C channels.

    by_blocks takes the form for TPU, for which one layer is not computed after the other: while
    the values of modules are captured, it is not taken.
    """

    hidden_channels: int
    use_bias: bool = False
    precision: lax.PrecisionLike = None
    by_blocks: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """B C H W -> B C H W."""
        watched = self.is_initializing() or self.is_mutable_collection("intermediates")
        if self.by_blocks and not watched:
            params = self.variables["params"]
            return mixed_scale_by_blocks(x, params, self.precision, phases=self._phases(x))
        hidden = self.hidden_channels
        options: dict[str, Any] = {"use_bias": self.use_bias, "precision": self.precision}
        expanded = Convolution(hidden * 2, 1, **options, name="project_in")(x)
        fine = nn.relu(DepthwiseConvolution(3, **options, name="dwconv3x3")(expanded))
        coarse = nn.relu(DepthwiseConvolution(5, **options, name="dwconv5x5")(expanded))
        # hidden may be odd: one pair of the grouped convolutions then straddles the seam.
        first = jnp.concatenate([fine[:, :hidden], coarse[:, :hidden]], axis=1)
        second = jnp.concatenate([fine[:, hidden:], coarse[:, hidden:]], axis=1)
        first = nn.relu(PairedDepthwiseConvolution(3, **options, name="dwconv3x3_1")(first))
        second = nn.relu(PairedDepthwiseConvolution(5, **options, name="dwconv5x5_1")(second))
        mixed = jnp.concatenate([first, second], axis=1)
        return Convolution(x.shape[1], 1, **options, name="project_out")(mixed)

    def _phases(self, x: jax.Array) -> int:
        """Squares of 2 x 2 pixels where the channels of a path alone do not fill two blocks."""
        even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        return 2 if even and self.hidden_channels <= LANES else 1
