"""Convolution over all channels, with its kernel gradient as a matrix product on CPU.

With few output channels, as at the end of the network (96 -> 3), that gradient takes XLA 40 times
as long as the same arithmetic as one matrix product.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.execution import CPU, target
from drsformer_jax.ops.taps import tap


def _library_convolution(
    x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike, halo: int
) -> jax.Array:
    rows, columns = (size // 2 for size in kernel.shape[:2])
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding="SAME" if halo == 0 else ((rows - halo, rows - halo), (columns, columns)),
        dimension_numbers=("NCHW", "HWIO", "NCHW"),
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolution(
    x: jax.Array,
    kernel: jax.Array,
    precision: lax.PrecisionLike = None,
    halo: int = 0,
    platform: str | None = None,
) -> jax.Array:
    """Stride 1, zero padding, same size.

    Args:
      x: B C H W.
      kernel: kh kw C D, both sizes odd.
      precision: of the products.
      halo: rows that x has above and below those of the result (see `ops.rows`).
      platform: that the program is for, see `ops.execution`.

    Returns:
      B D H W in the dtype of x.
    """
    return _library_convolution(x, kernel, precision, halo)


def _forward(
    x: jax.Array,
    kernel: jax.Array,
    precision: lax.PrecisionLike,
    halo: int,
    platform: str | None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _library_convolution(x, kernel, precision, halo), (x, kernel)


def _library_gradient(
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    precision: lax.PrecisionLike,
    halo: int = 0,
) -> jax.Array:
    return jax.vjp(lambda k: _library_convolution(x, k, precision, halo), kernel)[1](cotangent)[0]


def _gradient_by_shifts(
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    precision: lax.PrecisionLike,
    halo: int = 0,
) -> jax.Array:
    """One product of the image and of the cotangent at all kernel elements; copies the latter."""
    height, width, inputs, outputs = kernel.shape
    batch, _, *size = x.shape
    rows, columns = height // 2 + halo, width // 2
    padded = jnp.pad(cotangent, [(0, 0), (0, 0), (rows, rows), (columns, columns)])
    # Where the image stays and the kernel element moves up, the cotangent moves down.
    shifted = [
        tap(padded, (height - 1 - i, width - 1 - j), (size[0], size[1]))
        for i in range(height)
        for j in range(width)
    ]
    elements = jnp.concatenate(shifted, axis=1).reshape(batch, -1, size[0] * size[1])
    pixels = x.reshape(batch, inputs, -1)
    product = jnp.einsum("bcn,bkn->ck", pixels, elements, precision=precision)
    gradient = product.reshape(inputs, height, width, outputs)
    return jnp.transpose(gradient, (1, 2, 0, 3)).astype(kernel.dtype)


def _backward(
    precision: lax.PrecisionLike,
    halo: int,
    platform: str | None,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    convolve = functools.partial(_library_convolution, precision=precision, halo=halo)
    x_gradient = jax.vjp(lambda x: convolve(x, kernel), x)[1](cotangent)[0]
    # What is copied for every kernel element should be the smaller of the two.
    by_shifts = target(platform) == CPU and kernel.shape[3] < kernel.shape[2]
    kernel_gradient = _gradient_by_shifts if by_shifts else _library_gradient
    return x_gradient, kernel_gradient(x, kernel, cotangent, precision, halo)


convolution.defvjp(_forward, _backward)
