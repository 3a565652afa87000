"""1x1 convolution as plain matrix products on (C, H*W), its gradients too."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax


def _product(
    a: jax.Array, b: jax.Array, contracted: tuple[int, int], precision: lax.PrecisionLike
) -> jax.Array:
    """One matrix product an image, over axis `contracted[0]` of a and `contracted[1]` of b."""
    axes = ((contracted[0],), (contracted[1],))
    return lax.dot_general(a, b, (axes, ((0,), (0,))), precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _mix(weight: jax.Array, pixels: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """weight B C D, pixels B C N -> B D N.

    The VJP is written out because autodiff forms the gradient of the pixels transposed, as B N C:
    on CPU every reader of it then jumps through memory.
    """
    return _product(weight, pixels, (1, 1), precision)


def _mix_forward(
    weight: jax.Array, pixels: jax.Array, precision: lax.PrecisionLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _mix(weight, pixels, precision), (weight, pixels)


def _mix_backward(
    precision: lax.PrecisionLike, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    weight, pixels = residuals
    return (
        _product(pixels, cotangent, (2, 2), precision),
        _product(weight, cotangent, (2, 1), precision),
    )


_mix.defvjp(_mix_forward, _mix_backward)


def pointwise_conv(
    x: jax.Array, weight: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Mixes the channels of every pixel.

    Channel-first, an image is a C x HW matrix: the convolution is one product an image, and so is
    each of its gradients. (Written as an einsum over B C H W, the backward pass spends most of its
    time on transposes on CPU.)

    Args:
      x: B C H W.
      weight: C D, or B C D for weights of each image's own.
      precision: of the matrix product.

    Returns:
      B D H W in the dtype of x.
    """
    batch, channels, height, width = x.shape
    weight = weight.astype(x.dtype)
    if weight.ndim == 2:
        weight = jnp.broadcast_to(weight, (batch, *weight.shape))
    mixed = _mix(weight, x.reshape(batch, channels, height * width), precision)
    return mixed.reshape(batch, weight.shape[-1], height, width)
