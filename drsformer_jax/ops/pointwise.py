"""1x1 convolution as plain matrix products on (C, H*W)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


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
    pixels = x.reshape(batch, channels, height * width)
    mixed = lax.dot_general(weight, pixels, (((1,), (1,)), ((0,), (0,))), precision=precision)
    return mixed.reshape(batch, weight.shape[-1], height, width)
