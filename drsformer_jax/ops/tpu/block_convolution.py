"""Depthwise convolutions as products of 128 x 128 blocks, for TPU's matrix unit.

TPU has fifty times more arithmetic in its matrix unit than in its vector unit, and XLA's depthwise
convolution there spends most of its time on changes of layout. A block of 128 channels convolved
with a kernel whose 128 x 128 matrices are diagonal does 128 times the arithmetic and takes a
third of the time (by the compiler's estimate), forward and backward. Images are `B H W G L` here:
G blocks of L channels, so that neither the matrix unit nor a 1x1 convolution needs another layout.

Nothing here is a grouped convolution: its groups would make the partitioner of a program for many
devices gather the whole batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

LANES = 128


def blocks_of(channels: int, size: int = LANES) -> int:
    """How many blocks of `size` channels hold so many."""
    return -(-channels // size)


def into_blocks(x: jax.Array, size: int = LANES) -> jax.Array:
    """... C -> ... G size, the last block filled with zeros."""
    blocks = blocks_of(x.shape[-1], size)
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * size - x.shape[-1])])
    return filled.reshape(*x.shape[:-1], blocks, size)


def block_convolution(
    x: jax.Array, kernel: jax.Array, dilation: int = 1, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Every block of channels with its own full kernel; stride 1, zero padding, same size.

    The blocks are a third spatial axis of one convolution. Dilating it by G puts block g at
    position g G, and a window of G positions that moves by G - 1 sees block g alone, under element
    g of the kernel.

    Args:
      x: B H W G I.
      kernel: kh kw G I O, odd sizes.

    Returns:
      B H W G O in the dtype of x.
    """
    height, width, blocks = kernel.shape[:3]
    rows, columns = (height // 2) * dilation, (width // 2) * dilation
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1, max(blocks - 1, 1)),
        padding=((rows, rows), (columns, columns), (0, 0)),
        lhs_dilation=(1, 1, blocks),
        rhs_dilation=(dilation, dilation, 1),
        dimension_numbers=("NHWDC", "HWDIO", "NHWDC"),
        precision=precision,
    )


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """`jax.nn.relu`, its gradient g sign(ReLU(x)) instead of a choice by x > 0.

    TPU's compiler packs the mask of such a choice into bits, which takes longer than a convolution
    of blocks; the result is kept anyway, for the kernel gradient behind it.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _relu_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient * jnp.sign(y),)


relu.defvjp(_relu_forward, _relu_backward)


def space_to_blocks(x: jax.Array, phases: int, size: int = LANES) -> jax.Array:
    """B H W C -> B H/p W/p G size: squares of p x p pixels, `size` / p**2 channels a block.

    Within a block the order is (row, column, channel).
    """
    batch, height, width, _ = x.shape
    channels = size // phases**2
    blocks = into_blocks(x, channels)
    squares = blocks.reshape(
        batch, height // phases, phases, width // phases, phases, blocks.shape[3], channels
    )
    return jnp.transpose(squares, (0, 1, 3, 5, 2, 4, 6)).reshape(
        batch, height // phases, width // phases, blocks.shape[3], size
    )


def clear_rows(x: jax.Array, inside: jax.Array, phases: int) -> jax.Array:
    """B H/p W/p G L, zero in the rows of pixels that are not `inside`: H, bool."""
    lanes = jnp.repeat(inside.reshape(-1, phases), x.shape[-1] // phases, axis=1)
    return jnp.where(lanes[:, None, None, :], x, jnp.zeros((), x.dtype))


def blocks_to_space(x: jax.Array, phases: int, channels: int) -> jax.Array:
    """The inverse of `space_to_blocks`: B H/p W/p G L -> B H W C."""
    batch, rows, columns, blocks, size = x.shape
    squares = x.reshape(batch, rows, columns, blocks, phases, phases, size // phases**2)
    image = jnp.transpose(squares, (0, 1, 4, 2, 5, 3, 6))
    return image.reshape(batch, rows * phases, columns * phases, -1)[..., :channels]


def _moves(taps: int, dilation: int, phases: int) -> jax.Array:
    """Whether row a of the square `y` away reaches row u through a tap: y a u tap, bool."""
    away = -(-(taps // 2 * dilation) // phases)
    square = jnp.arange(-away, away + 1)[:, None, None, None]
    source, target = jnp.arange(phases)[:, None, None], jnp.arange(phases)[:, None]
    return phases * square + source - target == (jnp.arange(taps) - taps // 2) * dilation


def diagonal_kernel(kernel: jax.Array, dilation: int = 1, phases: int = 1) -> jax.Array:
    """Every channel to itself: kh kw G c -> KH KW G L L, with L = c * phases**2.

    With squares of p x p pixels in a block, a kernel of 5 x 5 pixels is one of 3 x 3 squares: the
    matrix unit does 9 products instead of 25. KH and KW count squares.
    """
    return _matrices(kernel, jnp.eye(kernel.shape[-1]), dilation, phases)


def pair_kernel(kernel: jax.Array, phases: int = 1) -> jax.Array:
    """Channels 2o and 2o + 1 to output o: kh kw 2 G c/2 -> KH KW G L L, zero for o >= c/2.

    Outputs that fill whole registers cost the matrix unit nothing and spare a change of layout.
    """
    pairs = kernel.shape[-1]
    filled = jnp.pad(kernel, [(0, 0)] * 4 + [(0, pairs)])
    channel = jnp.arange(2 * pairs)
    first, second = (
        _matrices(filled[:, :, member], channel[:, None] == 2 * channel + member, 1, phases)
        for member in range(2)
    )
    return first + second


def _matrices(kernel: jax.Array, reached: jax.Array, dilation: int, phases: int) -> jax.Array:
    """A weight for each output channel, and which inputs it reaches -> KH KW G L L.

    Args:
      kernel: kh kw G c.
      reached: c c, input and output, 0 or 1.
    """
    height, width, blocks, channels = kernel.shape
    rows = _moves(height, dilation, phases).astype(kernel.dtype)
    columns = _moves(width, dilation, phases).astype(kernel.dtype)
    size, squares = channels * phases**2, phases**2
    # From here on the lanes are those of the outputs: arrays of fewer would fill memory as much.
    lanes = jnp.tile(kernel, (1, 1, 1, squares))
    taps = jnp.einsum(
        "yaui,xbvj,ijgl->yxabuvgl", rows, columns, lanes, precision=lax.Precision.HIGHEST
    )
    taps = taps.reshape(len(rows), len(columns), squares, squares, blocks, size)
    taps = jnp.sum(taps * _own_lanes(channels, squares, kernel.dtype)[:, None], axis=3)
    matrices = jnp.swapaxes(taps, 2, 3)[:, :, :, :, None, :]
    matrices = matrices * jnp.tile(reached, (1, squares)).astype(kernel.dtype)
    return matrices.reshape(len(rows), len(columns), blocks, size, size)


def _own_lanes(channels: int, squares: int, dtype: jnp.dtype) -> jax.Array:
    """Which lanes of a block belong to a pixel of the square: p**2 L, 0 or 1."""
    return jnp.repeat(jnp.eye(squares, dtype=dtype), channels, axis=1)


def mixing_matrix(weight: jax.Array, phases: int, size: int = LANES) -> jax.Array:
    """The weight of a 1x1 convolution between blocks of squares: ... C D -> ... GL GL."""
    channels, squares = size // phases**2, phases**2
    inputs, outputs = (blocks_of(count, channels) for count in weight.shape[-2:])
    fill = [
        (0, blocks * channels - count)
        for blocks, count in zip((inputs, outputs), weight.shape[-2:], strict=True)
    ]
    padded = jnp.pad(weight, [(0, 0)] * (weight.ndim - 2) + fill)
    matrix = padded.reshape(*weight.shape[:-2], inputs, 1, channels, outputs, channels)
    # Copied along the lanes first, then along the rows; a pixel of a square goes to itself alone.
    matrix = jnp.tile(matrix, (1, 1, 1, 1, squares))
    matrix = matrix * _own_lanes(channels, squares, weight.dtype)[:, None, None]
    return matrix.reshape(*weight.shape[:-2], inputs * size, outputs * size)


def mix_blocks(
    x: jax.Array, weight: jax.Array, phases: int, precision: lax.PrecisionLike = None
) -> jax.Array:
    """A 1x1 convolution between blocks of squares: B H W G L with C D or B C D -> B H W G' L.

    The blocks of the result are axes of the product: as one axis that is split afterwards, its
    gradient would change layout twice. The result is in at least float32.
    """
    blocks, size = x.shape[3:]
    matrix = mixing_matrix(weight, phases, size)
    matrix = matrix.reshape(*matrix.shape[:-2], blocks, size, -1, size).astype(x.dtype)
    matrices = "bglij" if matrix.ndim == 5 else "glij"
    return _product(f"bhwgl,{matrices}->bhwij", x, matrix, precision)


def to_blocks(x: jax.Array, weight: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
    """A 1x1 convolution into blocks: B H W C with C G L -> B H W G L."""
    return jnp.einsum("bhwc,cgl->bhwgl", x, weight.astype(x.dtype), precision=precision)


def from_blocks(x: jax.Array, weight: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
    """A 1x1 convolution out of blocks: B H W G L with C D or B C D, C <= G L -> B H W D.

    Channels from C on are left out. The result is in at least float32.
    """
    blocks, size = x.shape[3:]
    missing = blocks * size - weight.shape[-2]
    padded = jnp.pad(weight, [(0, 0)] * (weight.ndim - 2) + [(0, missing), (0, 0)])
    weight = padded.reshape(*weight.shape[:-2], blocks, size, weight.shape[-1]).astype(x.dtype)
    rows = "bgld" if weight.ndim == 4 else "gld"
    return _product(f"bhwgl,{rows}->bhwd", x, weight, precision)


def _product(
    equation: str, x: jax.Array, weight: jax.Array, precision: lax.PrecisionLike
) -> jax.Array:
    """`jnp.einsum` with a result in at least float32, so that a sum of several is rounded once."""
    accumulator = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(equation, x, weight, precision=precision, preferred_element_type=accumulator)


def depthwise_by_blocks(
    x: jax.Array, kernel: jax.Array, dilation: int = 1, precision: lax.PrecisionLike = None
) -> jax.Array:
    """A depthwise convolution of B C H W with kh kw C."""
    batch, channels, height, width = x.shape
    blocks = into_blocks(jnp.moveaxis(x, 1, -1))
    y = block_convolution(blocks, diagonal_kernel(into_blocks(kernel)), dilation, precision)
    return jnp.moveaxis(y.reshape(batch, height, width, -1)[..., :channels], -1, 1)
