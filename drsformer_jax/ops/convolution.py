"""Convolutions over all channels: of any kernel, and 1x1 as matrix products.

With few output channels, as at the end of the network (96 -> 3), the gradient of the kernel takes
XLA on CPU 40 times as long as the same arithmetic as one matrix product.
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


# Pixels an image up to which, on CPU, copying all images' pixels side by side costs less than one
# product an image that is too small for its threads (measured: at 64 pixels that takes 4 to 9 times
# as long, at 256 about as long).
_FEW_PIXELS = 256


def _shared_weight_gradient(
    pixels: jax.Array, cotangent: jax.Array, precision: lax.PrecisionLike, platform: str | None
) -> jax.Array:
    """B C N and B D N -> C D, summed over images and pixels."""
    batch, channels, count = pixels.shape
    if target(platform) == CPU:
        if batch > 1 and count <= _FEW_PIXELS:
            axes = ((0, 2), (0, 2))
            return lax.dot_general(pixels, cotangent, (axes, ((), ())), precision=precision)
        if channels < cotangent.shape[1]:  # the larger one first takes a third less time
            products = _product(cotangent, pixels, (2, 2), precision)
            return jnp.sum(products, axis=0).T
    return jnp.sum(_product(pixels, cotangent, (2, 2), precision), axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _mix_all(
    weight: jax.Array, pixels: jax.Array, precision: lax.PrecisionLike, platform: str | None
) -> jax.Array:
    """weight C D, pixels B C N -> B D N: `_mix` with the same weights for every image."""
    del platform
    return _mix(jnp.broadcast_to(weight, (len(pixels), *weight.shape)), pixels, precision)


def _mix_all_forward(
    weight: jax.Array, pixels: jax.Array, precision: lax.PrecisionLike, platform: str | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _mix_all(weight, pixels, precision, platform), (weight, pixels)


def _mix_all_backward(
    precision: lax.PrecisionLike,
    platform: str | None,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    weight, pixels = residuals
    weights = jnp.broadcast_to(weight, (len(pixels), *weight.shape))
    return (
        _shared_weight_gradient(pixels, cotangent, precision, platform),
        _product(weights, cotangent, (2, 1), precision),
    )


_mix_all.defvjp(_mix_all_forward, _mix_all_backward)


def pointwise_conv(
    x: jax.Array,
    weight: jax.Array,
    precision: lax.PrecisionLike = None,
    platform: str | None = None,
) -> jax.Array:
    """Mixes the channels of every pixel.

    Channel-first, an image is a C x HW matrix: the convolution is one product an image, and so is
    each of its gradients. (Written as an einsum over B C H W, the backward pass spends most of its
    time on transposes on CPU.)

    Args:
      x: B C H W.
      weight: C D, or B C D for weights of each image's own.
      precision: of the matrix product.
      platform: that the program is for, see `ops.execution`.

    Returns:
      B D H W in the dtype of x.
    """
    batch, channels, height, width = x.shape
    weight, pixels = weight.astype(x.dtype), x.reshape(batch, channels, height * width)
    if weight.ndim == 2:
        mixed = _mix_all(weight, pixels, precision, platform)
    else:
        mixed = _mix(weight, pixels, precision)
    return mixed.reshape(batch, weight.shape[-1], height, width)
