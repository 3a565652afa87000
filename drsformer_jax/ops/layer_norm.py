"""LayerNorm over the channels of every pixel, with its VJP written out.

Autodiff leaves sums over the channels in the middle of elementwise work. XLA's CPU compiler fuses
the two and then walks through memory one plane at a time: the gradient takes 80 times as long as
the value. Here those sums are products with a vector, which no compiler fuses with what they read.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.convolution import pointwise_conv
from drsformer_jax.ops.execution import CPU, target

PARTIAL_SUMS = 8

# mean and 1 / standard deviation of each pixel, B 1 H W
Statistics = tuple[jax.Array, jax.Array]
Residuals = tuple[jax.Array, jax.Array, jax.Array | None, Statistics]


def _weighted_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_c(weights_c x_c): B C H W -> B 1 H W."""
    return pointwise_conv(x, weights[:, None], lax.Precision.HIGHEST)


def _mean_by_product(x: jax.Array) -> jax.Array:
    """In partial sums, as one running sum over all channels would round more often."""
    channels = x.shape[1]
    parts = min(channels, PARTIAL_SUMS)
    group = jnp.arange(channels) % parts
    selection = (group[:, None] == jnp.arange(parts)).astype(x.dtype)
    sums = pointwise_conv(x, selection, lax.Precision.HIGHEST)
    return functools.reduce(jnp.add, jnp.split(sums, parts, axis=1)) / channels


def _mean(x: jax.Array, platform: str) -> jax.Array:
    """Of the channels: B C H W -> B 1 H W."""
    return _mean_by_product(x) if platform == CPU else jnp.mean(x, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _statistics(x: jax.Array, epsilon: float, platform: str) -> Statistics:
    mean = _mean(x, platform)
    return mean, 1 / jnp.sqrt(_mean(jnp.square(x - mean), platform) + epsilon)


def _apply(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, statistics: Statistics
) -> jax.Array:
    mean, inverse_deviation = statistics
    y = (x if bias is None else x - mean) * inverse_deviation
    y = y * scale[:, None, None]
    return y if bias is None else y + bias[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    epsilon: float,
    platform: str | None = None,
) -> jax.Array:
    """Divides each pixel's channels by their standard deviation (biased variance, two-pass).

    Args:
      x: B C H W, float32 or float64.
      scale: C, in the dtype of x.
      bias: C, in the dtype of x. None is the BiasFree form (Restormer, and so DRSformer): the
        variance is about the mean, but the mean is not subtracted from what is divided.
      epsilon: added to the variance.
      platform: that the program is for, see `ops.execution`.

    Returns:
      B C H W.
    """
    return _apply(x, scale, bias, _statistics(x, epsilon, target(platform)))


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, platform: str | None
) -> tuple[jax.Array, Residuals]:
    statistics = _statistics(x, epsilon, target(platform))
    return _apply(x, scale, bias, statistics), (x, scale, bias, statistics)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(
    epsilon: float, platform: str | None, residuals: Residuals, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    del epsilon, platform
    x, scale, bias, (mean, inverse_deviation) = residuals
    centred = (x - mean) * inverse_deviation
    normalized = x * inverse_deviation if bias is None else centred
    along = cotangent * normalized
    weights = scale / scale.size
    x_gradient = cotangent * scale[:, None, None] - centred * _weighted_sum(along, weights)
    bias_gradient = None
    if bias is not None:
        x_gradient = x_gradient - _weighted_sum(cotangent, weights)
        bias_gradient = jnp.sum(cotangent, axis=(0, 2, 3))
    return x_gradient * inverse_deviation, jnp.sum(along, axis=(0, 2, 3)), bias_gradient


layer_norm.defvjp(_forward, _backward)
