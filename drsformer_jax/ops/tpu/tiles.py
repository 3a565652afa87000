"""Inside Pallas kernels for TPU: images in VMEM, walked over in tiles of pixels.

An image is [rows, columns, 128 channels] in float32: columns lie in the sublanes, channels in the
lanes. Around it are zeros, or rows of what lies above and below: then a tap of a depthwise
convolution is a load, a multiplication and an addition, and a load shifted along the columns costs
no more than another. A tile is what the registers hold well, 128 pixels at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import PAD, PIXELS_AT_A_TIME, SUBLANES, added, each

Ref = Any  # a Pallas reference, which has no public type


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How an image of `height` x `width` pixels is walked over: `rows` x `columns` at a time.

    Rows are counted from the first one above the image, of which there are `above`: the compiler
    for v5e ends the process at an index that could be negative.
    """

    height: int
    width: int
    rows: int
    columns: int
    above: int

    @classmethod
    def of(cls, height: int, width: int, reach: int, halo: int = 0) -> Tiles:
        """As many pixels as fit; width is a multiple of 8.

        Args:
          reach: of what looks around, pixels.
          halo: rows above and below that are computed, too.
        """
        columns = max(c for c in range(SUBLANES, PIXELS_AT_A_TIME + 1, SUBLANES) if width % c == 0)
        rows = max(
            r for r in (1, 2, 4, 8, 16) if height % r == 0 and r * columns <= PIXELS_AT_A_TIME
        )
        return cls(height, width, rows, columns, reach + -(-halo // rows) * rows)

    @property
    def larger(self) -> Tiles:
        """Four times as many pixels where rows divide: for products, whose matrices are loaded anew
        for each tile. Not for an image with rows of others around it."""
        rows = range(1, 4 * PIXELS_AT_A_TIME // self.columns + 1)
        return dataclasses.replace(self, rows=max(r for r in rows if self.height % r == 0))

    @property
    def pixels(self) -> int:
        """Of a tile."""
        return self.rows * self.columns

    def around(self, reach: int) -> int:
        """`reach` rows, rounded up to whole tiles."""
        return -(-reach // self.rows) * self.rows

    @property
    def frame(self) -> tuple[int, int, int]:
        """Shape of an array of the image with rows above and below, and columns."""
        return self.height + 2 * self.above, self.width + 2 * PAD, LANES

    @property
    def halved(self) -> Tiles:
        """Half as many columns at a time where they divide: for what holds twice as many values."""
        halves = [c for c in range(SUBLANES, self.columns, SUBLANES) if self.columns % c == 0]
        return dataclasses.replace(self, columns=max(halves, default=self.columns))

    def walk(self, reach: int, body: Callable[[Any, Any], None]) -> None:
        """body(row, column) of each tile, also of those `reach` rows above and below the image."""
        number, place = self._places(reach)

        each(number, lambda n: body(*place(n)))

    def walk_in_turn(
        self,
        reach: int,
        first: Callable[[Any, Any], Any],
        then: Callable[..., None],
        *dtypes: Any,
    ) -> None:
        """then(row, column, *first(row, column)) of each tile.

        `then` of a tile stands beside `first` of the next one, so that the matrix unit works on one
        while the vector unit works on the other. Before the first tile, `then` is given zeros for
        it: what it does must be to add, or be done again.

        Args:
          dtypes: of what `first` returns: pixels L each.
        """
        number, place = self._places(reach)

        def tile(n: jax.Array, carry: Any) -> Any:
            then(*place(jnp.maximum(n - 1, 0)), *carry)
            return first(*place(n))

        shape = self.pixels, LANES
        start = tuple(jnp.zeros(shape, dtype) for dtype in dtypes)
        then(*place(number - 1), *lax.fori_loop(0, number, tile, start))

    def _places(self, reach: int) -> tuple[int, Callable[[Any], tuple[Any, Any]]]:
        """How many tiles, and row and column of each."""
        across, around = self.width // self.columns, self.around(reach)
        start = self.above - around

        def place(n: Any) -> tuple[Any, Any]:
            if across == 1:
                return n * self.rows + start, 0
            column = lax.rem(n, across) * self.columns
            return lax.div(n, across) * self.rows + start, pl.multiple_of(column, SUBLANES)

        return (self.height + 2 * around) // self.rows * across, place

    def at(self, row: Any, column: Any, around: int = 0) -> tuple[Any, Any]:
        """Index of a tile in an array without a frame, but with `around` rows above and below."""
        first = row - (self.above - around)
        return pl.ds(first, self.rows), pl.ds(column, self.columns)

    def flat(self, tile: jax.Array) -> jax.Array:
        """rows columns L -> pixels L."""
        return tile.reshape(self.pixels, tile.shape[-1])

    def unflat(self, pixels: jax.Array) -> jax.Array:
        """The inverse of `flat`."""
        return pixels.reshape(self.rows, self.columns, pixels.shape[-1])


@dataclasses.dataclass(frozen=True)
class Plane:
    """A framed image in VMEM: `Tiles.frame`, float32."""

    ref: Ref
    tiles: Tiles

    def index(self, row: Any, column: Any) -> tuple[Any, ...]:
        """Of the tile at this row of the frame and this column of the image."""
        columns = pl.ds(PAD + column, self.tiles.columns)
        return pl.ds(row, self.tiles.rows), columns, slice(None)

    def read(self, row: Any, column: Any) -> jax.Array:
        """The tile there."""
        return self.ref[self.index(row, column)]

    def write(self, row: Any, column: Any, tile: jax.Array) -> None:
        """Sets the tile."""
        self.ref[self.index(row, column)] = tile

    def add(self, row: Any, column: Any, tile: jax.Array) -> None:
        """Adds to the tile."""
        index = self.index(row, column)
        self.ref[index] = self.ref[index] + tile

    def clear_frame(self) -> None:
        """Zero all around the image."""
        self.clear_beyond()
        side = jnp.zeros((PAD, self.ref.shape[-1]), self.ref.dtype)

        def row(i: Any) -> None:
            self.ref[i, pl.ds(0, PAD)] = side
            self.ref[i, pl.ds(PAD + self.tiles.width, PAD)] = side

        each(self.ref.shape[0], row)

    def clear_beyond(self) -> None:
        """Zero above and below the image."""
        self._clear(0, self.tiles.above)
        self._clear(self.tiles.above + self.tiles.height, self.tiles.above)

    def _clear(self, first: int, count: int) -> None:
        shape = self.ref.shape[1:]

        def row(i: Any) -> None:
            self.ref[first + i] = jnp.zeros(shape, self.ref.dtype)

        each(count, row)


@dataclasses.dataclass(frozen=True)
class Taps:
    """A depthwise kernel of size x size: its place in an array of all kernels, taps x L."""

    size: int
    dilation: int
    first: int

    @property
    def reach(self) -> int:
        """Pixels that it looks away."""
        return self.size // 2 * self.dilation

    def offsets(self) -> list[tuple[int, int, int]]:
        """Row in the array, and the pixel looked at from each, of all taps."""
        away = range(-self.reach, self.reach + 1, self.dilation)
        pixels = [(i, j) for i in away for j in away]
        return [(self.first + n, i, j) for n, (i, j) in enumerate(pixels)]

    def convolve(self, source: Plane, kernels: Ref, row: Any, column: Any) -> jax.Array:
        """The convolution's result in a tile."""
        return added(
            source.read(row + i, column + j) * kernels[n : n + 1, :] for n, i, j in self.offsets()
        )

    def pull_back(
        self, gradient: Plane, own: jax.Array, kernels: Ref, sums: Ref, row: Any, column: Any
    ) -> jax.Array:
        """The gradient of what was convolved, in a tile; adds to the gradient of the kernel.

        Each shifted gradient that is loaded serves both.

        Args:
          gradient: of the result, zero around the image.
          own: what was convolved, in this tile.
          sums: taps 8 L, sums over pixels but for 8.
        """

        def product(n: int, i: int, j: int) -> jax.Array:
            shifted = gradient.read(row - i, column - j)
            along = (shifted * own).reshape(-1, SUBLANES, own.shape[-1])
            sums[n] = sums[n] + jnp.sum(along, axis=0)
            return shifted * kernels[n : n + 1, :]

        return added(product(*offset) for offset in self.offsets())


def box_sum(source: Plane, row: Any, column: Any) -> jax.Array:
    """The sum of 3x3 pixels around each pixel of a tile."""
    around = (-1, 0, 1)
    return added(source.read(row + i, column + j) for i in around for j in around)
