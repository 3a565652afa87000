"""Depthwise convolution, the one grouped convolution of the whole network.

XLA's own grouped convolution is 10 to 30 times slower than memory allows on CPU, and a grouped
convolution with two inputs a group makes the partitioner gather the whole batch. So there is one
operation, `depthwise_conv`, whose form is chosen when it is lowered for a platform, with a
hand-written VJP; MSFN's grouped convolution is two of it on the even and the odd channels.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.block_convolution import depthwise_by_blocks


def _accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Taps are summed in at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def _pad(x: jax.Array, kernel_shape: tuple[int, int], dilation: int) -> jax.Array:
    rows, columns = ((size // 2) * dilation for size in kernel_shape)
    return jnp.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))


def _tap(padded: jax.Array, i: int, j: int, shape: tuple[int, ...], dilation: int) -> jax.Array:
    """The view of the padded image that kernel element (i, j) multiplies."""
    _, _, height, width = shape
    row, column = i * dilation, j * dilation
    return padded[:, :, row : row + height, column : column + width]


def _shift_and_add(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """One shifted multiply-add a kernel element; XLA fuses them into a single pass."""
    height, width, _ = kernel.shape
    dtype = _accumulation_dtype(x.dtype)
    padded = _pad(x, (height, width), dilation)
    kernel = kernel.astype(dtype)
    total = jnp.zeros(x.shape, dtype)
    for i in range(height):
        for j in range(width):
            tap = _tap(padded, i, j, x.shape, dilation).astype(dtype)
            total = total + tap * kernel[i, j, :, None, None]
    return total.astype(x.dtype)


def _library_convolution(
    x: jax.Array, kernel: jax.Array, dilation: int, precision: lax.PrecisionLike
) -> jax.Array:
    """XLA's grouped convolution with one channel a group: cuDNN on GPU."""
    channels = x.shape[1]
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :].astype(x.dtype),
        window_strides=(1, 1),
        padding="SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NCHW", "HWIO", "NCHW"),
        feature_group_count=channels,
        precision=precision,
    )


def _forward(
    x: jax.Array, kernel: jax.Array, dilation: int, precision: lax.PrecisionLike
) -> jax.Array:
    shift_and_add = functools.partial(_shift_and_add, dilation=dilation)
    library = functools.partial(_library_convolution, dilation=dilation, precision=precision)
    blocks = functools.partial(depthwise_by_blocks, dilation=dilation, precision=precision)
    return lax.platform_dependent(x, kernel, cpu=shift_and_add, tpu=blocks, default=library)


def _kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """d loss / d kernel: for each kernel element a product and a sum over B, H, W.

    A loop over the elements, because every one written out is one more program to compile: for
    5x5 the loop is as fast on CPU and compiles in a quarter of the time.
    """
    height, width, channels = kernel.shape
    dtype = _accumulation_dtype(x.dtype)
    padded = _pad(x, (height, width), dilation)
    cotangent = cotangent.astype(dtype)

    def element(index: jax.Array) -> jax.Array:
        row, column = (index // width) * dilation, (index % width) * dilation
        tap = lax.dynamic_slice(padded, (0, 0, row, column), x.shape)
        return jnp.sum(tap.astype(dtype) * cotangent, axis=(0, 2, 3))

    gradient = lax.map(element, jnp.arange(height * width))
    return gradient.reshape(height, width, channels).astype(kernel.dtype)


def _kernel_gradient_by_blocks(
    x: jax.Array,
    cotangent: jax.Array,
    kernel: jax.Array,
    dilation: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """The same from TPU's matrix unit."""

    def forward(kernel: jax.Array) -> jax.Array:
        return depthwise_by_blocks(x, kernel, dilation, precision)

    return jax.vjp(forward, kernel)[1](cotangent)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_conv(
    x: jax.Array, kernel: jax.Array, dilation: int, precision: lax.PrecisionLike
) -> jax.Array:
    return _forward(x, kernel, dilation, precision)


def _depthwise_conv_forward(
    x: jax.Array, kernel: jax.Array, dilation: int, precision: lax.PrecisionLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _forward(x, kernel, dilation, precision), (x, kernel)


def _depthwise_conv_backward(
    dilation: int,
    precision: lax.PrecisionLike,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # With an odd, centred kernel the input gradient is the same operation, kernel turned round.
    input_gradient = _forward(cotangent, kernel[::-1, ::-1], dilation, precision)
    by_taps = functools.partial(_kernel_gradient, dilation=dilation)
    by_blocks = functools.partial(
        _kernel_gradient_by_blocks, dilation=dilation, precision=precision
    )
    kernel_gradient = lax.platform_dependent(x, cotangent, kernel, tpu=by_blocks, default=by_taps)
    return input_gradient, kernel_gradient


_depthwise_conv.defvjp(_depthwise_conv_forward, _depthwise_conv_backward)


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    dilation: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolves every channel with its own kernel; stride 1, zero padding, same size.

    Args:
      x: B C H W.
      kernel: kh kw C, both sizes odd.
      dilation: distance between kernel elements, in pixels.
      precision: of the products where a platform's convolution library has a choice.

    Returns:
      B C H W in the dtype of x; shift-and-add sums are taken in at least float32.

    Raises:
      ValueError: an even kernel size, or another number of channels than the image has.
    """
    height, width, channels = kernel.shape
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"kernel sizes must be odd, not {height}x{width}")
    if channels != x.shape[1]:
        raise ValueError(f"kernel for {channels} channels, image with {x.shape[1]}")
    return _depthwise_conv(x, kernel, dilation, precision)


@jax.custom_vjp
def _even_and_odd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The even and the odd channels of B 2G H W; channel-first these are slices of whole planes.

    The VJP is written out because that of a strided slice is a padded addition, which on CPU takes
    four times as long as the convolution itself.
    """
    return x[:, 0::2], x[:, 1::2]


def _even_and_odd_forward(x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
    return _even_and_odd(x), None


def _even_and_odd_backward(_: None, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    batch, pairs, height, width = cotangents[0].shape
    return (jnp.stack(cotangents, axis=2).reshape(batch, 2 * pairs, height, width),)


_even_and_odd.defvjp(_even_and_odd_forward, _even_and_odd_backward)


def paired_depthwise_conv(
    x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Grouped convolution in which output g reads input channels 2g and 2g + 1.

    Args:
      x: B 2G H W.
      kernel: kh kw 2 G; kernel[:, :, p, g] weighs input channel 2g + p.
      precision: as in `depthwise_conv`.

    Returns:
      B G H W in the dtype of x.
    """
    even, odd = _even_and_odd(x)
    return depthwise_conv(even, kernel[:, :, 0], precision=precision) + depthwise_conv(
        odd, kernel[:, :, 1], precision=precision
    )
