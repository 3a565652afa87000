"""Layers that every part of the network shares. Images are B C H W inside the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from drsformer_jax.ops.image import Image, convolved, convolved_in_groups, normalised
from drsformer_jax.ops.tpu import forms

Initializer = Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]

LAYER_NORM_EPSILON = 1e-5


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


def kernel_of(module: nn.Module, *shape: int) -> jax.Array:
    """The parameter "kernel" of a module, float32."""
    kernel: jax.Array = module.param("kernel", uniform_fan_in, shape, jnp.float32)
    return kernel


def bias_of(module: nn.Module, kernel: jax.Array) -> jax.Array:
    """The parameter "bias" beside a kernel, one value an output."""
    *inputs, outputs = kernel.shape
    bias: jax.Array = module.param(
        "bias", uniform_within(math.prod(inputs)), (outputs,), jnp.float32
    )
    return bias


class Convolution(nn.Module):
    """Convolution over all channels, stride 1, zero padding, same size; kernel kh kw C D."""

    features: int
    kernel_size: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Image) -> Image:
        kernel = kernel_of(self, self.kernel_size, self.kernel_size, x.channels, self.features)
        return convolved(x, kernel, bias_of(self, kernel) if self.use_bias else None)


class Downsampling(Convolution):
    """B C H W -> B 4*features H/2 W/2: a convolution, then pixel-unshuffle."""

    def __call__(self, x: Image) -> Image:
        return super().__call__(x).shuffled(pixel_unshuffle)


class Upsampling(Convolution):
    """B C H W -> B features/4 2H 2W: a convolution, then pixel-shuffle."""

    def __call__(self, x: Image) -> Image:
        return super().__call__(x).shuffled(pixel_shuffle)


class DepthwiseConvolution(nn.Module):
    """Each channel with its own kernel; or each pair of neighbours to one output channel.

    kernel: kh kw members C/members, with one or two members.
    """

    kernel_size: int
    members: int = 1
    dilation: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Image, keep: int = 0) -> Image:
        """keep: pixels of the margin that the next convolution looks at."""
        size, groups = self.kernel_size, x.channels // self.members
        kernel = kernel_of(self, size, size, self.members, groups)
        bias = bias_of(self, kernel) if self.use_bias else None
        return convolved_in_groups(x, kernel, bias, self.dilation, keep)


class LayerNorm(nn.Module):
    """Normalises the channels of every pixel; biased variance, two-pass, in at least float32.

    with_bias False is the authors' BiasFree form: the variance is about the mean, but the mean is
    not subtracted from what is divided, and there is a scale only.
    """

    with_bias: bool = True

    @nn.compact
    def __call__(self, x: Image) -> Image:
        scale = self.param("scale", nn.initializers.ones, (x.channels,), jnp.float32)
        bias = None
        if self.with_bias:
            bias = self.param("bias", nn.initializers.zeros, (x.channels,), jnp.float32)
        return normalised(x, scale, bias, LAYER_NORM_EPSILON)


def pixel_unshuffle(x: jax.Array) -> jax.Array:
    """B C 2H 2W -> B 4C H W, channel index c * 4 + dy * 2 + dx (PyTorch's order)."""
    return rearrange(x, "b c (h dy) (w dx) -> b (c dy dx) h w", dy=2, dx=2)


def pixel_shuffle(x: jax.Array) -> jax.Array:
    """B 4C H W -> B C 2H 2W, the inverse of `pixel_unshuffle`."""
    return rearrange(x, "b (c dy dx) h w -> b c (h dy) (w dx)", dy=2, dx=2)


def is_watched(module: nn.Module) -> bool:
    """Whether values of the modules inside are asked for, or their parameters first made."""
    return module.is_initializing() or module.is_mutable_collection("intermediates")


def form_of(
    module: nn.Module, x: Image, name: str | None = None, many: bool = False
) -> Callable[..., Any] | None:
    """The form of a module that its platform has, in place of what is written there; or None.

    In such a form one layer is not computed after the other: a module that is watched has none. It
    takes the picture to fill the array.

    Args:
      name: of the form, where it is not that of the module's class.
      many: the form of many modules of that class, one after the other.
    """
    if is_watched(module) or x.inside is not None:
        return None
    return forms.find(name or type(module).__name__, x.how, many)
