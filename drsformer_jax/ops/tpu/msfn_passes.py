"""The passes over an image in fast memory that MSFN's kernels are made of.

Frames are arrays members, rows, columns, LANES with zeros around the image; in what follows `row` 0
is the first row that is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import (
    PAD,
    PIXELS_AT_A_TIME,
    added,
    clear_rows_outside,
    column_parts,
    each,
    product,
    rows_at_a_time,
)
from drsformer_jax.ops.tpu.msfn_layout import (
    BIAS,
    EXPANSION_BIAS,
    PIXELS_OF_A_PRODUCT,
    REACH,
    SIZE,
    Layout,
)
from drsformer_jax.ops.tpu.msfn_weights import Weights

MEMBERS = 2

# Where pixels are: first row, rows, first column, columns.
Place = tuple[Any, int, int, int]


def each_place(
    rows: int, width: int, body: Callable[[Place], None], pixels: int = PIXELS_AT_A_TIME
) -> None:
    """A loop over all pixels, as many at a time as registers hold."""
    many = rows_at_a_time(rows, width, pixels)

    def at(index: Any) -> None:
        for start, columns in column_parts(width, pixels):
            body((index * many, many, start, columns))

    each(rows // many, at)


def each_product(rows: int, width: int, body: Callable[[Any, int], None]) -> None:
    """A loop over all rows, as many at a time as make a good product: first row, rows."""
    many = rows_at_a_time(rows, width, PIXELS_OF_A_PRODUCT)
    each(rows // many, lambda index: body(index * many, many))


def pixels(ref: Any, place: Place, down: int = 0, right: int = 0) -> tuple[Any, Any]:
    """Slices of rows and columns of a frame, shifted."""
    row, rows, column, columns = place
    return pl.ds(row + down, rows), pl.ds(PAD + column + right, columns)


def flat(x: jax.Array) -> jax.Array:
    """Rows and columns as one axis."""
    return x.reshape(-1, x.shape[-1])


def window(size: int) -> list[tuple[int, int]]:
    """Rows and columns of a kernel within its frame."""
    taps = range((SIZE - size) // 2, (SIZE + size) // 2)
    return [(i, j) for i in taps for j in taps]


def tap(weights: Any, kind: int, member: int, index: int) -> jax.Array:
    """One element of a kernel: 1 LANES."""
    return weights[0, kind, member, index : index + 1, :]


def taps(
    source: Any, member: int, weights: Any, kind: int, size: int, place: Place, biased: bool
) -> jax.Array:
    """A convolution: rows columns LANES. Row 0 of the source is the window's first."""

    def parts() -> Iterator[jax.Array]:
        if biased:
            bias = tap(weights, kind, member, BIAS)
            yield jnp.broadcast_to(bias, (place[1], place[3], LANES))
        for i, j in window(size):
            rows, columns = pixels(source, place, i, j - REACH)
            yield source[member, rows, columns, :] * tap(weights, kind, member, SIZE * i + j)

    return added(parts())


def expand(
    layout: Layout, kind: int, normalised: Any, weights: Weights, expanded: Any, bounds: Any
) -> None:
    """The 1x1 convolution into both members of the block's pairs.

    bounds: of the image in the rows between the convolutions, for a layout with a halo. Rows
      outside are cleared: LayerNorm and biases make something of nothing.
    """
    offset = layout.edge

    def at(row: Any, rows: int) -> None:
        for member in range(MEMBERS):
            y = added(
                product(
                    flat(normalised[i, pl.ds(row, rows)]),
                    weights.expand[0, kind, member, i],
                    layout.precision,
                )
                for i in range(layout.images)
            )
            if layout.has_biases:
                y = y + tap(weights.first, kind, member, EXPANSION_BIAS)
            where = member, pl.ds(row + offset, rows), pl.ds(PAD, layout.width)
            expanded[where] = y.reshape(rows, layout.width, LANES)

    each_product(layout.input_rows, layout.width, at)
    clear_expanded(layout, expanded, bounds)


def clear_expanded(layout: Layout, expanded: Any, bounds: Any) -> None:
    """Zeros in the rows that are outside of the image."""
    if bounds is not None:
        first, last = (row + REACH for row in bounds)
        clear_rows_outside(expanded, layout.input_rows, layout.edge, first, last)


def convolve_first(
    layout: Layout, kind: int, expanded: Any, weights: Any, middle: Any, offset: int, bounds: Any
) -> None:
    """Depthwise convolution and ReLU of both members.

    Args:
      offset: of row 0 in `middle`.
      bounds: rows within which the image lies, for a layout with a halo.
    """
    size = layout.kinds[kind][0]

    def at(place: Place) -> None:
        for member in range(MEMBERS):
            y = taps(expanded, member, weights, kind, size, place, layout.has_biases)
            rows, columns = pixels(middle, place, offset)
            middle[member, rows, columns, :] = jnp.maximum(y, 0)

    each_place(layout.middle_rows, layout.width, at)
    if bounds is not None:
        clear_rows_outside(middle, layout.middle_rows, offset, *bounds)


def convolve_second(
    layout: Layout, kind: int, middle: Any, weights: Any, place: Place
) -> jax.Array:
    """Two members to one output, before the ReLU. Row 0 of `middle` is the window's first."""
    size = layout.kinds[kind][1]
    y = taps(middle, 0, weights, kind, size, place, layout.has_biases)
    return y + taps(middle, 1, weights, kind, size, place, biased=False)
