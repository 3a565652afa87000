"""Mixed-scale feed-forward network (MSFN; CVPR 2023, section 3.3)."""

from __future__ import annotations

import functools

import flax.linen as nn

from drsformer_jax.models.layers import Convolution, DepthwiseConvolution, form_of
from drsformer_jax.ops.image import Image, relu

# How far the larger kernels reach, in pixels.
REACH = 2


class MixedScaleFeedForward(nn.Module):
    """Two depthwise scales, their halves crossed, two scales again, and back to C channels."""

    hidden_channels: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """B C H W -> B C H W."""
        if form := form_of(self, x):
            return form(x, self.variables["params"])
        pointwise = functools.partial(Convolution, kernel_size=1, use_bias=self.use_bias)
        depthwise = functools.partial(DepthwiseConvolution, use_bias=self.use_bias)
        # Both rounds look around together, at x: it has the fewest channels.
        x = x.look_around(2 * REACH, carry_zeros=True)
        expanded = pointwise(2 * self.hidden_channels, name="project_in")(x)
        fine = relu(depthwise(3, name="dwconv3x3")(expanded, keep=REACH))
        coarse = relu(depthwise(5, name="dwconv5x5")(expanded, keep=REACH))
        # With an odd number of hidden channels, one pair of the next two straddles the seam.
        first, second = (a.beside(b) for a, b in zip(fine.halves(), coarse.halves(), strict=True))
        first = relu(depthwise(3, members=2, name="dwconv3x3_1")(first))
        second = relu(depthwise(5, members=2, name="dwconv5x5_1")(second))
        return pointwise(x.channels, name="project_out")(first.beside(second))
