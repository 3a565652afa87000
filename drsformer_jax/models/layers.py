"""Layers that every part of the network shares. Images are B C H W inside the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from drsformer_jax.ops.convolution import convolution
from drsformer_jax.ops.depthwise import (
    NO_BORDERS,
    Borders,
    depthwise_conv,
    paired_depthwise_conv,
)
from drsformer_jax.ops.layer_norm import layer_norm
from drsformer_jax.ops.pointwise import pointwise_conv
from drsformer_jax.ops.rows import RowShards, with_neighbours
from drsformer_jax.ops.taps import clear_border

Initializer = Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]

LAYER_NORM_EPSILON = 1e-5

# Variables of modules that a scan repeats, stacked on a leading axis: the parameters, what Flax
# captures on request, and decisions that parity checks give from outside (see `parity.replay`).
STACKED: dict[Any, int] = {"params": 0, "intermediates": 0, "decisions": 0}


def uniform_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """PyTorch's default initialisation: uniform within 1 / sqrt(fan_in) of zero.

    Args:
      shape: (kh, kw, inputs a group, outputs) or (inputs, outputs); all but the last is fan-in.
    """
    return uniform_within(math.prod(shape[:-1]))(key, shape, dtype)


def uniform_within(fan_in: int) -> Initializer:
    """The same for parameters whose shape does not show the fan-in: biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in float64 if it was: for what bfloat16 would spoil."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def block_params(
    stacked: dict[str, Any] | tuple[dict[str, Any], ...], index: int
) -> dict[str, Any]:
    """The parameters of one of several modules, stacked on a leading axis or one after another."""
    if isinstance(stacked, tuple):
        return stacked[index]
    params: dict[str, Any] = jax.tree.map(lambda stack: stack[index], stacked)
    return params


def is_watched(module: nn.Module) -> bool:
    """Whether values of the modules inside are asked for, or their parameters first made."""
    return module.is_initializing() or module.is_mutable_collection("intermediates")


class Convolution(nn.Module):
    """Convolution over all channels, stride 1, zero padding, same size; kernel kh kw C D.

    rows: how the rows of the image are split over devices; None: they are not.
    platform: that the program is for, see `ops.platform`.
    """

    features: int
    kernel_size: int
    use_bias: bool = False
    precision: lax.PrecisionLike = None
    rows: RowShards | None = None
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.kernel_size
        shape = (size, size, x.shape[1], self.features)
        kernel = self.param("kernel", uniform_fan_in, shape, jnp.float32)
        if size == 1:
            y = pointwise_conv(x, kernel[0, 0], self.precision)
        else:
            halo = 0
            if self.rows is not None:
                halo = size // 2
                x = with_neighbours(x, halo, self.rows)
            y = convolution(x, kernel, self.precision, halo, self.platform)
        return add_bias(self, y, math.prod(shape[:-1])) if self.use_bias else y


def add_bias(module: nn.Module, x: jax.Array, fan_in: int) -> jax.Array:
    """Adds the parameter "bias" of a module, one value a channel; x is B C H W."""
    bias = module.param("bias", uniform_within(fan_in), (x.shape[1],), jnp.float32)
    return x + bias.astype(x.dtype)[:, None, None]


class Downsampling(Convolution):
    """B C H W -> B 4*features H/2 W/2: a convolution, then pixel-unshuffle."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return pixel_unshuffle(super().__call__(x))


class Upsampling(Convolution):
    """B C H W -> B features/4 2H 2W: a convolution, then pixel-shuffle."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return pixel_shuffle(super().__call__(x))


class DepthwiseConvolution(nn.Module):
    """Each channel with its own kernel; kernel kh kw 1 C.

    borders, padding: zeros around the image and around the result, see `ops.depthwise`.
    has_halo: the borders are rows of an image that goes on there.
    platform: that the program is for, see `ops.platform`.
    """

    kernel_size: int
    dilation: int = 1
    use_bias: bool = False
    precision: lax.PrecisionLike = None
    platform: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        borders: Borders = NO_BORDERS,
        padding: int = 0,
        has_halo: bool = False,
    ) -> jax.Array:
        size = self.kernel_size
        kernel = self.param("kernel", uniform_fan_in, (size, size, 1, x.shape[1]), jnp.float32)
        y = depthwise_conv(
            x,
            kernel[:, :, 0],
            self.dilation,
            self.precision,
            borders,
            padding,
            has_halo,
            self.platform,
        )
        if not self.use_bias:
            return y
        y = add_bias(self, y, size * size)
        return y if has_halo else clear_border(y, borders.after)


class PairedDepthwiseConvolution(nn.Module):
    """Each pair of neighbouring channels to one output channel; kernel kh kw 2 C/2.

    border: zeros around the image, that the result has not; see `ops.depthwise`.
    has_halo: the border is rows of an image that goes on there.
    platform: that the program is for, see `ops.platform`.
    """

    kernel_size: int
    use_bias: bool = False
    precision: lax.PrecisionLike = None
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, border: int = 0, has_halo: bool = False) -> jax.Array:
        size = self.kernel_size
        shape = (size, size, 2, x.shape[1] // 2)
        kernel = self.param("kernel", uniform_fan_in, shape, jnp.float32)
        y = paired_depthwise_conv(
            x,
            kernel,
            self.precision,
            Borders(border, 0),
            has_halo=has_halo,
            platform=self.platform,
        )
        return add_bias(self, y, size * size * 2) if self.use_bias else y


class LayerNorm(nn.Module):
    """Normalises the channels of every pixel; biased variance, two-pass, in at least float32.

    with_bias False is the authors' BiasFree form: the variance is about the mean, but the mean is
    not subtracted from what is divided, and there is a scale only.
    platform: that the program is for, see `ops.platform`.
    """

    with_bias: bool = True
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        wide = at_least_float32(x)
        bias = None
        if self.with_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
            bias = bias.astype(wide.dtype)
        y = layer_norm(wide, scale.astype(wide.dtype), bias, LAYER_NORM_EPSILON, self.platform)
        return y.astype(x.dtype)


def pixel_unshuffle(x: jax.Array) -> jax.Array:
    """B C 2H 2W -> B 4C H W, channel index c * 4 + dy * 2 + dx (PyTorch's order)."""
    return rearrange(x, "b c (h dy) (w dx) -> b (c dy dx) h w", dy=2, dx=2)


def pixel_shuffle(x: jax.Array) -> jax.Array:
    """B 4C H W -> B C 2H 2W, the inverse of `pixel_unshuffle`."""
    return rearrange(x, "b (c dy dx) h w -> b c (h dy) (w dx)", dy=2, dx=2)
