"""What stands in front of MSFN's LayerNorm, inside its kernels: an image, or more to be added.

That is the second pass of sparse attention (`attended`). Its values are looked at once, backwards
twice, so they are not kept as images are: a few rows of them come in while those before are
computed with, and as few rows of their gradients go out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.attended import Attended
from drsformer_jax.ops.tpu.lanes import (
    each,
    product,
    product_over_pixels,
    product_transposed,
    rows_at_a_time,
)
from drsformer_jax.ops.tpu.msfn_layout import PIXELS_OF_A_PRODUCT, Layout
from drsformer_jax.ops.tpu.msfn_passes import flat
from drsformer_jax.ops.tpu.tiles import Ref

# body(image, first row, rows, pixels C in float32); backwards it returns their gradient.
Body = Callable[[int, Any, int, jax.Array], jax.Array | None]


class Stream(NamedTuple):
    """An array in device memory, and two places for a few of its rows in fast memory.

    Attributes:
      array: N rows width L.
      places: 2 images n width L.
      done: semaphores of the copies, 2.
    """

    array: Ref
    places: Ref
    done: Ref

    def fetch(self, images: Any, row: Any, rows: int, place: Any) -> Any:
        """The copy of some rows to a place."""
        here = self.places.at[place, :, pl.ds(0, rows)]
        return pltpu.make_async_copy(
            self.array.at[images, pl.ds(row, rows)], here, self.done.at[place]
        )

    def store(self, images: Any, row: Any, rows: int, place: Any) -> Any:
        """The copy from a place."""
        here = self.places.at[place, :, pl.ds(0, rows)]
        return pltpu.make_async_copy(
            here, self.array.at[images, pl.ds(row, rows)], self.done.at[place]
        )


class Inputs:
    """The image of a round of the kernel, walked over."""

    def __init__(
        self, layout: Layout, number: Any, arrays: Sequence[Ref], stream: Sequence[Ref]
    ) -> None:
        """
        Args:
          number: of the round.
          arrays: as `specs` has them.
          stream: as `stream_scratch` has it.
        """
        self.layout, self.x = layout, arrays[0]
        self.images = pl.ds(number * layout.images, layout.images)
        self.attended = Attended(*arrays[1:]) if layout.values else None
        self.stream = Stream(arrays[1], *stream) if layout.values else None

    def walk(
        self,
        first: int,
        count: int,
        body: Body,
        gradients: tuple[Stream, Ref] | None = None,
    ) -> None:
        """Calls `body` with what is normalised, all of `count` rows from the first on.

        Args:
          gradients: of the values, and of the matrices, which are added to: from what `body`
            returns.
        """
        layout, stream = self.layout, self.stream
        many = rows_at_a_time(count, layout.width, PIXELS_OF_A_PRODUCT)
        rounds = count // many

        def where(n: Any) -> tuple[Any, Any, int, Any]:
            return self.images, first + n * many, many, n & 1

        def step(n: Any) -> None:
            if stream is not None:
                pl.when(n + 1 < rounds)(lambda: stream.fetch(*where(n + 1)).start())
                stream.fetch(*where(n)).wait()
            if gradients is not None:
                # Those that have this place, two rounds before.
                pl.when(n >= 2)(lambda: gradients[0].store(*where(n)).wait())
            for i in range(layout.images):
                y = self._pixels(i, first + n * many, many, n & 1)
                gradient = body(i, n * many, many, y)
                if gradients is not None:
                    self._pull_back(i, many, n & 1, gradient, gradients)
            if gradients is not None:
                gradients[0].store(*where(n)).start()

        if stream is not None:
            stream.fetch(*where(0)).start()
        each(rounds, step)
        if gradients is not None:
            for n in range(max(rounds - 2, 0), rounds):
                gradients[0].store(*where(n)).wait()

    def _values(self, i: int, rows: int, place: Any) -> jax.Array:
        """Values that are here: pixels L."""
        assert self.stream is not None
        return flat(self.stream.places[place, i, pl.ds(0, rows)])

    def _pixels(self, i: int, row: Any, rows: int, place: Any) -> jax.Array:
        """What is normalised: pixels C, float32."""
        y = flat(self.x[i, pl.ds(row, rows)].astype(jnp.float32))
        if self.attended is None:
            return y
        values, matrix = self._values(i, rows, place), self.attended.matrices[i]
        return (
            y + product_transposed(values, matrix, self.layout.precision) + self.attended.bias[...]
        )

    def _pull_back(
        self, i: int, rows: int, place: Any, gradient: Any, gradients: tuple[Stream, Ref]
    ) -> None:
        assert self.attended is not None
        (_, places, _), of_matrices = gradients
        precision = self.layout.precision
        values = self._values(i, rows, place)
        gradient = gradient.astype(values.dtype)
        back = product(gradient, self.attended.matrices[i], precision).astype(values.dtype)
        places[place, i, pl.ds(0, rows)] = back.reshape(rows, self.layout.width, -1)
        part = product_over_pixels(gradient, values, precision)
        of_matrices[i] = of_matrices[i] + part


def split(layout: Layout, number: Any, refs: Sequence[Ref]) -> tuple[Inputs, Sequence[Ref]]:
    """The inputs of a round of a kernel, and the references that are left.

    Args:
      refs: those of `specs` first, and of `stream_scratch` last.
    """
    if not layout.values:
        return Inputs(layout, number, refs[:1], ()), refs[1:]
    arrays = 1 + len(Attended._fields)
    return Inputs(layout, number, refs[:arrays], refs[-2:]), refs[arrays:-2]


def split_gradients(
    layout: Layout, refs: Sequence[Ref]
) -> tuple[Sequence[Ref], tuple[Stream, Ref] | None]:
    """The references that are left, and the gradients of values and of matrices.

    Args:
      refs: those of the gradients first, and of their stream last.
    """
    if not layout.values:
        return refs, None
    of_values, of_matrices = refs[:2]
    return refs[2:-2], (Stream(of_values, *refs[-2:]), of_matrices)


def parts(layout: Layout) -> Iterator[tuple[int, int, bool]]:
    """Of the rows of the array: the first one, how many, and whether they have results."""
    yield layout.halo, layout.rows, True
    if layout.has_halo:
        yield 0, layout.halo, False
        yield layout.halo + layout.rows, layout.halo, False


def normalise(inputs: Inputs, weights: Ref, into: Ref, kept: Ref | None = None) -> None:
    """LayerNorm of all rows of the array, in its dtype.

    kept: for what is normalised, without a halo.
    """
    layout = inputs.layout
    for first, count, is_own in parts(layout):

        def at(
            i: int, row: Any, rows: int, y: jax.Array, first: int = first, is_own: bool = is_own
        ) -> None:
            shape = rows, layout.width, layout.channels
            value = layout.norm.apply(y, weights).value.astype(into.dtype)
            into[i, pl.ds(row + first, rows)] = value.reshape(shape)
            if is_own and kept is not None:
                kept[i, pl.ds(row, rows)] = y.astype(kept.dtype).reshape(shape)

        inputs.walk(first, count, at)


def normalise_back(
    inputs: Inputs,
    weights: Ref,
    total: Ref,
    dy: Ref,
    dx: Ref,
    sums: Ref,
    gradients: tuple[Stream, Ref] | None,
) -> None:
    """The gradient of the image: LayerNorm's, and in its own rows what goes around all.

    Args:
      total: gradient of LayerNorm's result, as x.
      dy: of the kernel's, without a halo.
      sums: for the gradients of LayerNorm's weights, see `LayerNorm.pull_back`.
      gradients: of values and matrices, see `Inputs.walk`.
    """
    layout = inputs.layout
    sums[...] = jnp.zeros_like(sums)
    if gradients is not None:
        gradients[1][...] = jnp.zeros_like(gradients[1])
    for first, count, is_own in parts(layout):

        def at(
            i: int, row: Any, rows: int, x: jax.Array, first: int = first, is_own: bool = is_own
        ) -> jax.Array:
            where = i, pl.ds(row + first, rows)
            y = layout.norm.pull_back(x, weights, flat(total[where]), sums)
            if is_own:
                y = y + flat(dy[i, pl.ds(row, rows)].astype(jnp.float32))
            dx[where] = y.astype(dx.dtype).reshape(rows, layout.width, layout.channels)
            return y

        inputs.walk(first, count, at, gradients)


def specs(layout: Layout, which: Callable[..., Any]) -> list[pl.BlockSpec]:
    """Of the image, and of what is added to it.

    which: of the rounds, of the indices of a kernel's grid.
    """
    shape = layout.images, layout.input_rows, layout.width, layout.channels
    found = [pl.BlockSpec(shape, lambda *at: (which(*at), 0, 0, 0))]
    if layout.values:
        found += [
            pl.BlockSpec(memory_space=pl.ANY),
            matrices_spec(layout, which),
            pl.BlockSpec((1, layout.channels), lambda *_: (0, 0)),
        ]
    return found


def operands(x: jax.Array, attended: Attended | None) -> list[jax.Array]:
    """As `specs` has them, the matrices in the dtype of the values."""
    if attended is None:
        return [x]
    values, matrices, bias = attended
    return [x, values, matrices.astype(values.dtype), bias]


def matrices_spec(layout: Layout, which: Callable[..., Any]) -> pl.BlockSpec:
    """Of the matrices, and of their gradients."""
    shape = layout.images, layout.channels, layout.values
    return pl.BlockSpec(shape, lambda *at: (which(*at), 0, 0))


def stream_scratch(layout: Layout, dtype: jnp.dtype) -> list[Any]:
    """What a stream has in fast memory; nothing where nothing is added."""
    if not layout.values:
        return []
    shape = 2, layout.images, layout.rows_of_a_product, layout.width, layout.values
    return [pltpu.VMEM(shape, dtype), pltpu.SemaphoreType.DMA((2,))]
