"""The gradient of a depthwise convolution with respect to its kernel.

For each kernel element it is the sum over B, H, W of a shifted image times the cotangent: one such
product and sum is bound by memory alone, so all that counts is how often the two are read.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.taps import accumulation_dtype, tap


def _first_tap(x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int) -> list[int]:
    """Row and column of x at which the view of kernel element 0, 0 begins."""
    return [
        (x.shape[2 + axis] - cotangent.shape[2 + axis]) // 2 - (kernel.shape[axis] // 2) * dilation
        for axis in (0, 1)
    ]


def kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """d loss / d kernel of a depthwise convolution of stride 1.

    All elements in one reduction with as many operands: image and cotangent are read once. Only the
    columns are summed there. One running sum over all pixels would be as quick but lose a digit in
    float32.

    Args:
      x: B (members G) H W, what was convolved, with at least as much padding on each side as the
        kernel reaches out.
      cotangent: B G h w, d loss / d output, without any.
      kernel: kh kw members G, for its shape and dtype.
      dilation: distance between kernel elements, in pixels.

    Returns:
      kh kw members G in the dtype of the kernel; sums are taken in at least float32.
    """
    height, width, members, _ = kernel.shape
    dtype = accumulation_dtype(x.dtype)
    size = (cotangent.shape[2], cotangent.shape[3])
    top, left = _first_tap(x, cotangent, kernel, dilation)
    x, cotangent = x.astype(dtype), cotangent.astype(dtype)
    gradients = []
    for p in range(members):
        products = [
            lax.mul(tap(x, (top + i * dilation, left + j * dilation), size, p, members), cotangent)
            for i in range(height)
            for j in range(width)
        ]
        rows = lax.reduce(
            products,
            [jnp.zeros((), dtype)] * len(products),
            lambda totals, values: list(map(lax.add, totals, values)),
            dimensions=(3,),
        )
        gradients.append(jnp.stack([jnp.sum(row, axis=(0, 2)) for row in rows]))
    gradient = jnp.stack(gradients, axis=1)
    return gradient.reshape(kernel.shape).astype(kernel.dtype)
