"""How a depthwise convolution reads its image: zero padding, and one view a kernel element."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Taps are summed in at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def pad(x: jax.Array, kernel_shape: tuple[int, int], dilation: int) -> jax.Array:
    """B C H W with zeros around it, for a centred kernel of odd sizes."""
    rows, columns = ((size // 2) * dilation for size in kernel_shape)
    return jnp.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))


def tap(padded: jax.Array, i: int, j: int, shape: tuple[int, ...], dilation: int) -> jax.Array:
    """The view of the padded image, B C H W, that kernel element (i, j) multiplies."""
    _, _, height, width = shape
    row, column = i * dilation, j * dilation
    return padded[:, :, row : row + height, column : column + width]
