"""The mixed-scale feed-forward network (MSFN) in the form for TPU's matrix unit.

An output channel of the second pair of convolutions reads two channels of the first pair, and these
one channel of the expansion each. So the network falls apart into four paths, one for each pair of
kernel sizes (3 or 5, then 3 or 5),

    x -> 1x1 -> depthwise -> ReLU -> two channels to one -> ReLU -> 1x1,

and a path into blocks of 128 channels: no concatenation, no strided slice of an image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import are_inside, with_neighbours, without_neighbours
from drsformer_jax.ops.tpu.block_convolution import (
    LANES,
    block_convolution,
    blocks_of,
    blocks_to_space,
    clear_rows,
    diagonal_kernel,
    from_blocks,
    into_blocks,
    mix_blocks,
    pair_kernel,
    relu,
    space_to_blocks,
    to_blocks,
)

# The form takes squares of 2 x 2 pixels for images beyond this size: for small ones, making squares
# and their kernels costs more than they save.
PIXELS_WITHOUT_SQUARES = 64 * 64

# Blocks of squares that it computes at a time.
BLOCKS_AT_A_TIME = 4

# Rows that the two convolutions of a path reach out together.
HALO = 4


class Layer(NamedTuple):
    """Kernel and bias (or None) of a convolution, outputs on the last axis of both."""

    kernel: jax.Array
    bias: jax.Array | None

    def part(self, start: int, stop: int) -> Layer:
        """Some of the output channels."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Layer(self.kernel[..., start:stop], bias)


class Path(NamedTuple):
    """The layers of one path; the last one is a part of the inputs of project_out, G L D."""

    expand: Layer
    depthwise: Layer
    pairs: Layer
    project: jax.Array


def mixed_scale_by_blocks(image: Image, params: Mapping[str, Any]) -> Image:
    """MSFN of B C H W with the parameters of `models.feed_forward`, B C H W."""
    hidden = params["dwconv3x3_1"]["kernel"].shape[-1]
    height, width = image.array.shape[2:]
    # Few channels do not fill blocks of 128 either.
    wanted = hidden <= LANES or height * width > PIXELS_WITHOUT_SQUARES
    if not (wanted and height % 2 == width % 2 == 0):
        return in_squares(image, params)
    # Each of two scales has twice so many channels, and a block holds LANES / 4 of them.
    parts = blocks_of(4 * hidden, BLOCKS_AT_A_TIME * LANES // 4)
    return in_squares(image, params, phases=2, parts=parts)


def in_squares(
    image: Image,
    params: Mapping[str, Any],
    *,
    phases: int = 1,
    parts: int = 1,
    size: int = LANES,
) -> Image:
    """The same in squares of pixels.

    All paths are computed as one with the larger kernels: a program a quarter as long, and with
    squares of 2 x 2 pixels, in which 3x3 and 5x5 kernels are both 3x3 squares, no more arithmetic.

    Args:
      phases: p, for squares of p x p pixels in a block; divides H and W.
      parts: a loop over so many parts of the blocks, so that what is between the convolutions of
        one part stays in fast memory. Backwards, a part is computed again.
      size: channels of a block, the pixels of a square counted.
    """
    x, rows, precision = image.array, image.how.rows, image.how.products
    inside = None
    if rows is not None:
        inside = are_inside(rows, x.shape[2], HALO)
        x = with_neighbours(x, HALO, rows)
    pixels = jnp.moveaxis(x, 1, -1)
    inputs = pixels if phases == 1 else space_to_blocks(pixels, phases, size)
    path = _merged([_in_blocks(path, size // phases**2) for path in paths_of(params)])
    follow = functools.partial(_follow, phases=phases, precision=precision, inside=inside)
    total = _in_parts(path, inputs, parts, follow)
    if phases > 1:
        total = blocks_to_space(total.astype(x.dtype), phases, x.shape[1])
    if rows is not None:
        total = without_neighbours(total, HALO, axis=1)
    bias = params["project_out"].get("bias")
    if bias is not None:
        total = total + bias.astype(total.dtype)
    return Image(jnp.moveaxis(total.astype(x.dtype), -1, 1), image.how)


def _in_parts(
    path: Path, x: jax.Array, parts: int, follow: Callable[[Path, jax.Array], jax.Array]
) -> jax.Array:
    """`follow`, the blocks in parts one after the other."""
    if parts == 1:
        return follow(path, x)

    def split(weight: jax.Array, axis: int) -> jax.Array:
        """The axis of blocks in parts, the last one filled with blocks of zeros."""
        each = -(-weight.shape[axis] // parts)
        fill = [(0, 0)] * weight.ndim
        fill[axis] = (0, each * parts - weight.shape[axis])
        shape = (*weight.shape[:axis], parts, each, *weight.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(weight, fill).reshape(shape), axis, 0)

    def layer(layer: Layer) -> Layer:
        bias = None if layer.bias is None else split(layer.bias, 0)
        return Layer(split(layer.kernel, layer.kernel.ndim - 2), bias)

    stacked = Path(
        layer(path.expand), layer(path.depthwise), layer(path.pairs), split(path.project, 0)
    )

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add_part(total: jax.Array, part: Path) -> tuple[jax.Array, None]:
        return total + follow(part, x), None

    first = jax.tree.map(lambda weight: weight[0], stacked)
    shape = jax.eval_shape(follow, first, x)
    total, _ = lax.scan(add_part, jnp.zeros(shape.shape, shape.dtype), stacked)
    return total


def paths_of(params: Mapping[str, Any]) -> list[Path]:
    """Three or four paths; kernels C 2n, kh kw 2n, kh kw 2 n and n D, each with n outputs."""
    layers = {name: Layer(value["kernel"], value.get("bias")) for name, value in params.items()}
    layers = {name: _squeezed(layer) for name, layer in layers.items()}
    hidden = layers["dwconv3x3_1"].kernel.shape[-1]
    paths = []
    for half, second in enumerate((layers["dwconv3x3_1"], layers["dwconv5x5_1"])):
        start, stop = half * hidden, (half + 1) * hidden
        project = layers["project_out"].kernel[start:stop]
        fine, coarse = (layers[name].part(start, stop) for name in ("dwconv3x3", "dwconv5x5"))
        expand = layers["project_in"].part(start, stop)
        # An odd number leaves one pair of a fine and a coarse channel: the path of coarse ones
        # takes it, with the fine kernel inside a coarse one.
        even, seam = hidden - hidden % 2, hidden // 2
        fine_first = fine.part(0, even), expand.part(0, even)
        coarse_first = coarse, expand
        if hidden % 2:
            last = fine.part(even, hidden)
            last = last._replace(kernel=framed(last.kernel, coarse.kernel.shape[0]))
            coarse_first = joined(last, coarse), joined(expand.part(even, hidden), expand)
        for (depthwise, inputs), first, end in (
            (fine_first, 0, seam),
            (coarse_first, seam, hidden),
        ):
            if end > first:
                pairs = second.part(first, end)
                paths.append(Path(inputs, depthwise, pairs, project[first:end]))
    return paths


def _squeezed(layer: Layer) -> Layer:
    """1 1 C D -> C D and kh kw 1 C -> kh kw C; kh kw 2 G stays."""
    kernel = layer.kernel
    if kernel.shape[:2] == (1, 1):
        return layer._replace(kernel=kernel[0, 0])
    return layer._replace(kernel=kernel[:, :, 0]) if kernel.shape[2] == 1 else layer


def joined(one: Layer, other: Layer) -> Layer:
    """The outputs of both, one after the other."""
    bias = None
    if one.bias is not None and other.bias is not None:
        bias = jnp.concatenate([one.bias, other.bias])
    return Layer(jnp.concatenate([one.kernel, other.kernel], axis=-1), bias)


def _in_blocks(path: Path, channels: int) -> Path:
    """The same path with a block axis: C G c, kh kw G c, kh kw 2 G c/2, G c D."""
    pairs = channels // 2
    # A block has as many outputs as inputs, of which the second half is nothing.
    rows = into_blocks(path.project.T, pairs)
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, channels - pairs)))
    return Path(
        _layer_in_blocks(path.expand, channels),
        _layer_in_blocks(path.depthwise, channels),
        _layer_in_blocks(path.pairs, pairs),
        jnp.moveaxis(rows, 0, -1),
    )


def _layer_in_blocks(layer: Layer, channels: int) -> Layer:
    bias = None if layer.bias is None else into_blocks(layer.bias, channels)
    return Layer(into_blocks(layer.kernel, channels), bias)


def _merged(paths: list[Path]) -> Path:
    """One path of all blocks: small kernels stand in the middle of large ones."""

    def merge(layers: list[Layer]) -> Layer:
        kernels = [layer.kernel for layer in layers]
        if kernels[0].ndim > 3:
            largest = max(kernel.shape[0] for kernel in kernels)
            kernels = [framed(kernel, largest) for kernel in kernels]
        biases = [layer.bias for layer in layers if layer.bias is not None]
        bias = jnp.concatenate(biases) if biases else None
        return Layer(jnp.concatenate(kernels, axis=-2), bias)

    expand, depthwise, pairs, projects = zip(*paths, strict=True)
    return Path(
        merge(list(expand)), merge(list(depthwise)), merge(list(pairs)), jnp.concatenate(projects)
    )


def framed(kernel: jax.Array, size: int) -> jax.Array:
    """kh kw ... within zeros, size size ..."""
    frame = (size - kernel.shape[0]) // 2
    return jnp.pad(kernel, [(frame, frame)] * 2 + [(0, 0)] * (kernel.ndim - 2))


def _follow(
    path: Path,
    x: jax.Array,
    phases: int,
    precision: lax.PrecisionLike,
    inside: jax.Array | None = None,
) -> jax.Array:
    """What a path in blocks adds: B H W C -> B H W D, or both in blocks of squares.

    inside: which rows of pixels are of the image, bool; None: all. Others must not be seen by a
    convolution.
    """
    expand, project = path.expand.kernel, path.project.reshape(-1, path.project.shape[-1])
    if phases == 1:
        y = to_blocks(x, expand, precision)
    else:
        weight = expand.reshape(expand.shape[0], -1)
        y = mix_blocks(x, weight, phases, precision).astype(x.dtype)
    y = _add(y, path.expand.bias, phases)
    if inside is not None and path.expand.bias is not None:
        y = clear_rows(y, inside, phases)
    y = block_convolution(y, diagonal_kernel(path.depthwise.kernel, 1, phases), precision=precision)
    y = relu(_add(y, path.depthwise.bias, phases))
    if inside is not None:
        y = clear_rows(y, inside, phases)
    y = block_convolution(y, pair_kernel(path.pairs.kernel, phases), precision=precision)
    y = relu(_add(y, path.pairs.bias, phases))
    if phases == 1:
        return from_blocks(y, project, precision)
    return mix_blocks(y, project, phases, precision)


def _add(x: jax.Array, bias: jax.Array | None, phases: int) -> jax.Array:
    """B H W G L and a bias G c of the first c channels of every pixel of a block."""
    if bias is None:
        return x
    filled = jnp.pad(bias, ((0, 0), (0, x.shape[-1] // phases**2 - bias.shape[-1])))
    return x + jnp.tile(filled, phases**2).astype(x.dtype)
