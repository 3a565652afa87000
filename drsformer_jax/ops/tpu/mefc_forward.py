"""One step of the mixture of experts (MEFC) as a Pallas kernel, see `ops.tpu.mefc_kernel`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.tiles import LANES, PAD, Plane, Ref, Taps, Tiles, box_sum

# Rows that a step looks around: three pixels at a dilation of 2, or two kernels of 7 in a row.
HALO = 6


def _kernels() -> tuple[list[tuple[Taps, Taps]], list[Taps], int]:
    """Where each kernel stands: of separable experts both, of dilated ones; and taps in all."""
    first, pairs, dilated = 0, [], []
    for size in (3, 5, 7):
        pairs.append((Taps(size, 1, first), Taps(size, 1, first + size**2)))
        first += 2 * size**2
    for size in (3, 5, 7):
        dilated.append(Taps(size, 2, first))
        first += size**2
    return pairs, dilated, first


SEPARABLE, DILATED, TAPS = _kernels()
# Rows of an array of taps, whole registers.
TAP_ROWS = -(-TAPS // 8) * 8
# Matrices between the two convolutions of separable experts (of 1x1, 3x3, 5x5, 7x7 pixels), and
# behind the features of all: separable, dilated, pool.
INNER, OUTER = 4, 8
POOL = OUTER - 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a step is computed; hashable, fixed when it is traced.

    Attributes:
      tiles: of a strip, which may be the whole image.
      halo: rows of the image above and below a strip, `HALO`; 0 where a strip is the image.
      precision: of products.
      vmem: bytes that a kernel may take.
      interpret: see `pl.pallas_call`.
    """

    tiles: Tiles
    halo: int
    precision: lax.Precision | None
    vmem: int
    interpret: Any = False

    def around(self, reach: int) -> int:
        """Rows above and below a strip that are computed for something that looks so far."""
        return reach if self.halo else 0

    def dot(self, x: jax.Array, matrix: jax.Array, dims: Any = ((1,), (0,))) -> jax.Array:
        """A product of two matrices, float32."""
        return lax.dot_general(
            x, matrix, (dims, ((), ())), self.precision, preferred_element_type=jnp.float32
        )


class Weights(NamedTuple):
    """Of a step, for images in lanes; float32.

    Attributes:
      taps: TAP_ROWS L.
      inner: INNER L L.
      outer: N OUTER L L, the experts' weights for each image within.
    """

    taps: jax.Array
    inner: jax.Array
    outer: jax.Array


class Borders(NamedTuple):
    """Where the image ends; float32.

    Attributes:
      inside: strips height+2*above 1 L, whether each row of a strip is one of the image.
      rows: strips height 1 L, one by the rows of three that are.
      columns: width L, the same of columns.
    """

    inside: jax.Array
    rows: jax.Array
    columns: jax.Array


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What both kernels of a step read: references, and how to walk over them."""

    plan: Plan
    weights: Any
    borders: Any

    def count(self, row: Any, column: Any) -> jax.Array:
        """One by the number of pixels that the pool sees at each pixel of a tile."""
        tiles = self.plan.tiles
        columns = self.borders.columns[pl.ds(column, tiles.columns)]
        return self.borders.rows[0, tiles.at(row, column)[0]] * columns[None]

    def hidden(self, state: Plane, taps: Taps, inner: int, row: Any, column: Any) -> Any:
        """Of a separable expert, in a tile: the first feature, pixels L; and what is convolved next."""
        plan, weights = self.plan, self.weights
        feature = taps.convolve(state, weights.taps, row, column)
        feature = plan.tiles.flat(feature).astype(weights.inner.dtype)
        mixed = plan.tiles.unflat(jnp.maximum(plan.dot(feature, weights.inner[inner]), 0))
        if plan.halo:
            # Beyond the image the next convolution is to see zeros.
            mixed = mixed * self.borders.inside[0, pl.ds(row, plan.tiles.rows)]
        return feature, mixed


def load(plan: Plan, image: Ref, state: Plane) -> None:
    """A strip with its halo, of the dtype of the network, into VMEM."""

    def row(i: jax.Array, carry: int) -> int:
        into = state.ref.at[plan.tiles.above - plan.halo + i, pl.ds(PAD, plan.tiles.width)]
        into[...] = image[0, 0, i].astype(jnp.float32)
        return carry

    lax.fori_loop(0, plan.tiles.height + 2 * plan.halo, row, 0)


def _kernel(plan: Plan, keep: bool, *refs: Ref) -> None:
    image, weights, borders = refs[0], Weights(*refs[1:4]), Borders(*refs[4:7])
    outputs, (state_ref, hidden_ref, update) = refs[7:-3], refs[-3:]
    tiles, inputs = plan.tiles, Inputs(plan, weights, borders)
    state, hidden = (Plane(ref, tiles) for ref in (state_ref, hidden_ref))
    dtype = image.dtype

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _() -> None:
        state.clear()
        hidden.clear()

    load(plan, image, state)

    def mixed(feature: jax.Array, expert: int) -> jax.Array:
        flat = tiles.flat(feature).astype(dtype)
        return tiles.unflat(plan.dot(flat, weights.outer[0, expert]))

    def first(row: Any, column: Any) -> None:
        own = tiles.flat(state.read(row, column)).astype(dtype)
        pointwise = tiles.unflat(jnp.maximum(plan.dot(own, weights.inner[0]), 0))
        pooled = box_sum(state, row, column) * inputs.count(row, column)
        update[tiles.at(row, column)] = mixed(pointwise, 0) + mixed(pooled, POOL)

    tiles.walk(0, first)

    def add(source: Plane, taps: Taps, expert: int) -> None:
        def body(row: Any, column: Any) -> None:
            feature = taps.convolve(source, weights.taps, row, column)
            update[tiles.at(row, column)] = update[tiles.at(row, column)] + mixed(feature, expert)

        tiles.walk(0, body)

    for n, taps in enumerate(DILATED):
        add(state, taps, INNER + n)
    for n, (taps, then) in enumerate(SEPARABLE, start=1):

        def between(row: Any, column: Any, taps: Taps = taps, n: int = n) -> None:
            hidden.write(row, column, inputs.hidden(state, taps, n, row, column)[1])

        tiles.walk(plan.around(then.reach), between)
        add(hidden, then, n)

    def last(row: Any, column: Any) -> None:
        change = update[tiles.at(row, column)]
        after = jnp.maximum(jnp.maximum(change, 0) + state.read(row, column), 0)
        outputs[0][(0, 0, *tiles.at(row, column))] = after.astype(dtype)
        if keep:
            outputs[1][(0, 0, *tiles.at(row, column))] = change.astype(dtype)

    tiles.walk(0, last)


def specs(plan: Plan) -> tuple[Any, Any, list[Any]]:
    """Blocks of a strip with its halo, of one without, and of weights and borders."""
    height, width = plan.tiles.height, plan.tiles.width
    once = pl.Buffered(1)  # an image takes long to compute, and as long to wait for as 1 % of it

    def strip(rows: int) -> Any:
        block = (1, 1, rows, width, LANES)
        return pl.BlockSpec(block, lambda n, t: (n, t, 0, 0, 0), pipeline_mode=once)

    rest = [
        pl.BlockSpec((TAP_ROWS, LANES), lambda n, t: (0, 0)),
        pl.BlockSpec((INNER, LANES, LANES), lambda n, t: (0, 0, 0)),
        pl.BlockSpec((1, OUTER, LANES, LANES), lambda n, t: (n, 0, 0, 0)),
        pl.BlockSpec((1, height + 2 * plan.tiles.above, 1, LANES), lambda n, t: (t, 0, 0, 0)),
        pl.BlockSpec((1, height, 1, LANES), lambda n, t: (t, 0, 0, 0)),
        pl.BlockSpec((width, LANES), lambda n, t: (0, 0)),
    ]
    return strip(height + 2 * plan.halo), strip(height), rest


def for_products(weights: Weights, dtype: jnp.dtype) -> Weights:
    """Matrices in the dtype of the images."""
    return Weights(weights.taps, weights.inner.astype(dtype), weights.outer.astype(dtype))


def step(
    plan: Plan, keep: bool, strips: jax.Array, weights: Weights, borders: Borders
) -> list[jax.Array]:
    """The next state; and, to keep for the gradient, what the experts add.

    Args:
      strips: N T height+2*halo W L, rows that are not of the image being zero.

    Returns:
      N T height W L, one or two.
    """
    count, number = strips.shape[:2]
    wide, narrow, rest = specs(plan)
    height, width = plan.tiles.height, plan.tiles.width
    out = jax.ShapeDtypeStruct((count, number, height, width, LANES), strips.dtype)
    frame = pltpu.VMEM(plan.tiles.frame, jnp.float32)
    results = [out] * (2 if keep else 1)
    return pl.pallas_call(
        functools.partial(_kernel, plan, keep),
        grid=(count, number),
        in_specs=[wide, *rest],
        out_specs=[narrow] * len(results),
        out_shape=results,
        scratch_shapes=[frame, frame, pltpu.VMEM((height, width, LANES), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            vmem_limit_bytes=plan.vmem, dimension_semantics=("arbitrary",) * 2
        ),
        interpret=plan.interpret,
        name=f"mefc_{height}x{width}",
    )(strips, *for_products(weights, strips.dtype), *borders)
