"""The gradient of a depthwise convolution with respect to its kernel.

For each kernel element it is the sum over B, H, W of a shifted image times the cotangent: one such
product and sum is bound by memory alone, so all that counts is how often the two are read.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.taps import accumulation_dtype, pad, tap


def _one_reduction(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """All elements in one reduction with as many operands: image and cotangent are read once.

    Only the columns are summed there. One running sum over all pixels would be as quick but lose
    a digit in float32.
    """
    height, width, channels = kernel.shape
    dtype = accumulation_dtype(x.dtype)
    padded = pad(x, (height, width), dilation)
    cotangent = cotangent.astype(dtype)
    products = [
        tap(padded, i, j, x.shape, dilation).astype(dtype) * cotangent
        for i in range(height)
        for j in range(width)
    ]
    zero = jnp.zeros((), dtype)
    rows = lax.reduce(
        products,
        [zero] * len(products),
        lambda totals, values: [total + value for total, value in zip(totals, values, strict=True)],
        dimensions=(3,),
    )
    gradient = jnp.stack([jnp.sum(row, axis=(0, 2)) for row in rows])
    return gradient.reshape(height, width, channels).astype(kernel.dtype)


def _one_by_one(x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A loop over the elements; every one written out would be one more program to compile."""
    height, width, channels = kernel.shape
    dtype = accumulation_dtype(x.dtype)
    padded = pad(x, (height, width), dilation)
    cotangent = cotangent.astype(dtype)

    def element(index: jax.Array) -> jax.Array:
        row, column = (index // width) * dilation, (index % width) * dilation
        view = lax.dynamic_slice(padded, (0, 0, row, column), x.shape)
        return jnp.sum(view.astype(dtype) * cotangent, axis=(0, 2, 3))

    gradient = lax.map(element, jnp.arange(height * width))
    return gradient.reshape(height, width, channels).astype(kernel.dtype)


def kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """d loss / d kernel of a depthwise convolution (stride 1, zero padding, same size).

    Args:
      x: B C H W, what was convolved.
      cotangent: B C H W, d loss / d output.
      kernel: kh kw C, for its shape and dtype.
      dilation: distance between kernel elements, in pixels.

    Returns:
      kh kw C in the dtype of the kernel; sums are taken in at least float32.
    """
    return lax.platform_dependent(
        x,
        cotangent,
        kernel,
        cpu=functools.partial(_one_reduction, dilation=dilation),
        default=functools.partial(_one_by_one, dilation=dilation),
    )
