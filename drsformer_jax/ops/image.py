"""An image that knows its margin, and what the network's layers do to it.

What looks at neighbouring pixels needs some beyond the edge. Where the image ends these are zeros;
where its rows are split over devices (`ops.rows`), they are rows of the neighbours. Either is seen
to once for all convolutions to come: `look_around` is told how far they reach together.

A picture may fill a part of its array only, so that one program serves many sizes. What lies beyond
is then cleared wherever neighbours or sums over pixels are looked at, and may hold anything else.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from drsformer_jax.ops.convolution import convolution, pointwise_conv
from drsformer_jax.ops.depthwise import Borders, depthwise_conv
from drsformer_jax.ops.execution import TPU, Execution
from drsformer_jax.ops.layer_norm import layer_norm
from drsformer_jax.ops.rows import (
    clear_outside,
    clear_padding,
    global_sum,
    positions,
    with_neighbours,
)
from drsformer_jax.ops.taps import accumulation_dtype, clear_border, with_border

DEFAULT = Execution()


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["array", "inside"],
    meta_fields=["how", "margin", "padding", "carries_zeros"],
)
@dataclasses.dataclass(frozen=True)
class Image:
    """An image within the network; all but the arrays is static.

    Attributes:
      array: B C H W, the margin counted in.
      how: the network is computed, one value for all images in it.
      margin: pixels around the image that are there already: rows of the neighbours above and
        below, or zeros on all sides.
      padding: zeros that a convolution pads with at least where it pads anyway, so that all that
        look at this image share one padded copy.
      carries_zeros: a convolution writes the zeros that the next one needs, too.
      inside: B 1 H W without the margin, 1 where the picture is and 0 beyond it. An array and no
        comparison of coordinates, which would be repeated for every channel. None: the picture
        fills the array.
    """

    array: jax.Array
    how: Execution = DEFAULT
    margin: int = 0
    padding: int = 0
    carries_zeros: bool = False
    inside: jax.Array | None = None

    @property
    def channels(self) -> int:
        """C."""
        return self.array.shape[1]

    def look_around(self, reach: int, *, carry_zeros: bool = False) -> Image:
        """The same image before convolutions that reach `reach` pixels, all in a row together.

        carry_zeros: the convolutions follow directly on each other; then on CPU and GPU, where
          each padding is a pass over memory, the first one writes the zeros of the second.
        """
        if self.how.rows is not None:
            wide = with_neighbours(self.array, reach, self.how.rows)
            return dataclasses.replace(self, array=wide, margin=reach)
        carries_zeros = carry_zeros and self.how.target != TPU
        return dataclasses.replace(self.cleared(), padding=reach, carries_zeros=carries_zeros)

    def map(self, function: Callable[[jax.Array], jax.Array]) -> Image:
        """What works pixel by pixel."""
        return dataclasses.replace(self, array=function(self.array))

    def shuffled(self, function: Callable[[jax.Array], jax.Array]) -> Image:
        """What makes channels of 2x2 pixels, or pixels of the channels."""
        array, inside = function(self.array), self.inside
        if inside is not None and array.shape[2] < inside.shape[2]:
            inside = inside[:, :, ::2, ::2]
        elif inside is not None:
            inside = jnp.repeat(jnp.repeat(inside, 2, axis=2), 2, axis=3)
        return dataclasses.replace(self, array=array, inside=inside)

    def cleared(self) -> Image:
        """Zero beyond the picture, where the next convolution is to see zeros."""
        if self.inside is not None:
            inside = with_border(self.inside, 0, self.margin)
            return self.map(lambda array: array * inside.astype(array.dtype))
        if self.margin == 0:
            return self
        if self.how.rows is None:
            return self.map(lambda array: clear_border(array, self.margin))
        return self.map(functools.partial(clear_outside, rows=self.how.rows, halo=self.margin))

    def parts(self, count: int) -> list[Image]:
        """The channels, split evenly."""
        arrays = jnp.split(self.array, count, axis=1)
        return [dataclasses.replace(self, array=array) for array in arrays]

    def halves(self) -> list[Image]:
        """The first and the second half of the channels."""
        return self.parts(2)

    def beside(self, other: Image) -> Image:
        """The channels of both, one after the other."""
        return self.map(lambda array: jnp.concatenate([array, other.array], axis=1))

    def __add__(self, other: Image) -> Image:
        return self.map(lambda array: array + other.array)

    def mean(self) -> jax.Array:
        """Of the pixels of the whole image: B C in at least float32."""
        rows = self.how.rows
        if self.inside is not None:
            count = jnp.sum(at_least_float32(self.inside), axis=(2, 3))
            return jnp.sum(at_least_float32(self.cleared().array), axis=(2, 3)) / count
        if rows is None:
            return jnp.mean(at_least_float32(self.array), axis=(2, 3))
        band, width = self.array.shape[2:]
        total = jnp.sum(at_least_float32(clear_padding(self.array, rows)), axis=(2, 3))
        return global_sum(total, rows) / (rows.level_height(band) * width)


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in float64 if it was: for what bfloat16 would spoil."""
    return x.astype(accumulation_dtype(x.dtype))


def relu(x: Image) -> Image:
    """max(x, 0)."""
    return x.map(jax.nn.relu)


def normalised(x: Image, scale: jax.Array, bias: jax.Array | None, epsilon: float) -> Image:
    """LayerNorm over the channels of each pixel, in at least float32; see `ops.layer_norm`."""
    wide = at_least_float32(x.array)
    bias = None if bias is None else bias.astype(wide.dtype)
    y = layer_norm(wide, scale.astype(wide.dtype), bias, epsilon, x.how.platform)
    return x.map(lambda array: y.astype(array.dtype))


def convolved(x: Image, kernel: jax.Array, bias: jax.Array | None = None) -> Image:
    """Convolution over all channels, stride 1, zero padding, same size.

    Args:
      kernel: kh kw C D.
      bias: D.
    """
    if kernel.shape[:2] == (1, 1):
        return mixed(x, kernel[0, 0], bias)
    how, array, halo = x.how, x.cleared().array, 0
    if how.rows is not None:
        halo = kernel.shape[0] // 2
        array = with_neighbours(array, halo, how.rows)
    y = convolution(array, kernel, how.products, halo, how.platform)
    return plus(Image(y, how, inside=x.inside), bias)


def mixed(x: Image, weight: jax.Array, bias: jax.Array | None = None) -> Image:
    """1x1 convolution. weight: C D, or B C D for weights of each image's own; bias: D."""
    y = x.map(lambda array: pointwise_conv(array, weight, x.how.products, x.how.platform))
    return y if bias is None else plus(y, bias).cleared()


def convolved_in_groups(
    x: Image, kernel: jax.Array, bias: jax.Array | None = None, dilation: int = 1, keep: int = 0
) -> Image:
    """Each channel, or group of neighbouring channels to one, with its own kernel.

    Args:
      kernel: kh kw members G.
      bias: G.
      keep: of the margin, as far as the next convolution is to look. Zeros are kept where they
        are carried only: elsewhere the next convolution pads.
    """
    how = x.how
    is_split = how.rows is not None
    margin = keep if is_split or x.carries_zeros else 0
    array = depthwise_conv(
        x.array,
        kernel,
        how.products,
        Borders(x.margin, margin),
        dilation=dilation,
        padding=x.padding,
        has_halo=is_split,
        platform=how.platform,
    )
    y = plus(Image(array, how, margin, inside=x.inside), bias)
    # Without rows of neighbours and a bias, the convolution itself has left zeros; but not inside
    # the array beyond a picture, where they matter to a next convolution only.
    is_spoilt = bias is not None if x.inside is None else keep > 0
    return y.cleared() if is_split or is_spoilt else y


def plus(x: Image, bias: jax.Array | None) -> Image:
    """A bias of each channel; B C H W and C."""
    if bias is None:
        return x
    return x.map(lambda array: array + bias.astype(array.dtype)[:, None, None])


def average_pool(x: Image) -> Image:
    """3x3 mean, stride 1, over the pixels inside the image only."""
    ones = jnp.ones((3, 3, 1, x.channels), accumulation_dtype(x.array.dtype))
    total = convolved_in_groups(x.map(at_least_float32), ones).array
    height, width = total.shape[2:]
    if x.inside is None:
        counts = pixels_around(x.how, height, width, total.dtype)
    else:
        inside = Image(at_least_float32(x.inside), x.how)
        # Far from the picture there are none: what is not looked at stays finite.
        counts = jnp.maximum(convolved_in_groups(inside, ones[..., :1]).array, 1)
    return Image((total / counts).astype(x.array.dtype), x.how, inside=x.inside)


def pixels_around(how: Execution, height: int, width: int, dtype: jnp.dtype) -> jax.Array:
    """How many pixels of the image lie in the 3x3 window of each one: H W.

    height, width: of the image; where its rows are split, of a device's band.
    """

    def inside(position: jax.Array, size: int) -> jax.Array:
        """How many of three neighbouring positions lie inside, for each position."""
        return 1 + (position > 0).astype(dtype) + (position < size - 1).astype(dtype)

    if how.rows is None:
        row_counts = inside(jnp.arange(height), height)[:, None]
    else:
        row_counts = inside(positions(how.rows, height), how.rows.level_height(height))[:, None]
    return row_counts * inside(jnp.arange(width), width)


def inside_of(extent: jax.Array, height: int, width: int) -> jax.Array:
    """1 where pictures are in arrays of this size, and 0 beyond: B 1 H W bool.

    Args:
      extent: B 2, the height and width of each picture; it lies at the top left.
    """
    rows = jnp.arange(height) < extent[:, :1]
    columns = jnp.arange(width) < extent[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]
