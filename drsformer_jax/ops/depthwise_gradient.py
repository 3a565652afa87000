"""The gradient of a depthwise convolution with respect to its kernel.

For each kernel element it is the sum over B, H, W of a shifted image times the cotangent: one such
product and sum is bound by memory alone, so all that counts is how often the two are read.
"""

from __future__ import annotations

import functools

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


def _one_reduction(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """All elements in one reduction with as many operands: image and cotangent are read once.

    Only the columns are summed there. One running sum over all pixels would be as quick but lose
    a digit in float32.
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


def _one_by_one(x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A loop over the elements; every one written out would be one more program to compile."""
    height, width, members, groups = kernel.shape
    dtype = accumulation_dtype(x.dtype)
    batch, _, *size = cotangent.shape
    cotangent = cotangent.astype(dtype)
    top, left = _first_tap(x, cotangent, kernel, dilation)

    def element(index: jax.Array) -> jax.Array:
        """members G for one row and column of the kernel."""
        row, column = top + (index // width) * dilation, left + (index % width) * dilation
        view = lax.dynamic_slice(x, (0, 0, row, column), (*x.shape[:2], *size))
        view = view.reshape(batch, groups, members, *size).astype(dtype)
        return jnp.sum(view * cotangent[:, :, None], axis=(0, 3, 4)).T

    gradient = lax.map(element, jnp.arange(height * width))
    return gradient.reshape(kernel.shape).astype(kernel.dtype)


def kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """d loss / d kernel of a depthwise convolution of stride 1.

    Args:
      x: B (members G) H W, what was convolved, with at least as much padding on each side as the
        kernel reaches out.
      cotangent: B G h w, d loss / d output, without any.
      kernel: kh kw members G, for its shape and dtype.
      dilation: distance between kernel elements, in pixels.

    Returns:
      kh kw members G in the dtype of the kernel; sums are taken in at least float32.
    """
    return lax.platform_dependent(
        x,
        cotangent,
        kernel,
        cpu=functools.partial(_one_reduction, dilation=dilation),
        default=functools.partial(_one_by_one, dilation=dilation),
    )
