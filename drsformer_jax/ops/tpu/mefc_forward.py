"""Steps of the mixture of experts (MEFC) as a Pallas kernel, see `ops.tpu.mefc_kernel`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import PAD, SUBLANES, call, each
from drsformer_jax.ops.tpu.tiles import Plane, Ref, Taps, Tiles, box_sum

DILATION = 2


@dataclasses.dataclass(frozen=True)
class Experts:
    """The experts of a step in their order: 1x1, separable ones, dilated ones, the pool.

    Attributes:
      separable: where both kernels of each stand.
      dilated: where the one kernel stands.
    """

    separable: tuple[tuple[Taps, Taps], ...]
    dilated: tuple[Taps, ...]

    @classmethod
    def of(cls, separable: Sequence[int], dilated: Sequence[int]) -> Experts:
        """From the sizes of their kernels."""
        first, pairs, others = 0, [], []
        for size in separable:
            pairs.append((Taps(size, 1, first), Taps(size, 1, first + size**2)))
            first += 2 * size**2
        for size in dilated:
            others.append(Taps(size, DILATION, first))
            first += size**2
        return cls(tuple(pairs), tuple(others))

    @property
    def reach(self) -> int:
        """Pixels that a step looks away."""
        pairs = (first.reach + second.reach for first, second in self.separable)
        return max(*pairs, *(taps.reach for taps in self.dilated))

    @property
    def taps(self) -> int:
        """Elements of all kernels, filled up to whole registers."""
        number = sum(taps.size**2 for taps in (*sum(self.separable, ()), *self.dilated))
        return -(-number // SUBLANES) * SUBLANES

    @property
    def inner(self) -> int:
        """Matrices between two convolutions: of the 1x1 expert and the separable ones."""
        return 1 + len(self.separable)

    @property
    def outer(self) -> int:
        """Matrices behind features, one an expert."""
        return self.pool + 1

    @property
    def pool(self) -> int:
        """The last expert."""
        return self.inner + len(self.dilated)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a step is computed; hashable, fixed when it is traced.

    Attributes:
      experts: of the step.
      tiles: of a strip, which may be the whole image.
      halo: rows of the image above and below a strip; 0 where a strip is the image.
      precision: of products.
      vmem: bytes of it that a kernel may have.
    """

    experts: Experts
    tiles: Tiles
    halo: int
    precision: lax.Precision
    vmem: int

    def around(self, reach: int) -> int:
        """Rows above and below a strip that are computed for something that looks so far."""
        return reach if self.halo else 0

    def dot(self, x: jax.Array, matrix: jax.Array, dims: Any = ((1,), (0,))) -> jax.Array:
        """A product of two matrices, float32."""
        return lax.dot_general(
            x, matrix, (dims, ((), ())), self.precision, preferred_element_type=jnp.float32
        )


class Weights(NamedTuple):
    """Of all steps, for images in lanes; float32.

    Attributes:
      taps: steps `Experts.taps` L.
      inner: steps `Experts.inner` L L.
      outer: N steps `Experts.outer` L L, the experts' weights for each image within.
    """

    taps: jax.Array
    inner: jax.Array
    outer: jax.Array


class Borders(NamedTuple):
    """Where the image ends; float32.

    Attributes:
      rows: strips height 1 L, one by the rows of three that are of the image.
      columns: width L, the same of columns.
      inside: strips height+2*above 1 L, whether each row of a strip is one of the image; None
        where a strip is the image. (An operand that is not read has a bug of a compiler to fear:
        jax-ml/jax#39744.)
    """

    rows: jax.Array
    columns: jax.Array
    inside: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What both kernels read at a step: references, and how to walk over them."""

    plan: Plan
    weights: Any
    borders: Any

    def count(self, row: Any, column: Any) -> jax.Array:
        """One by the number of pixels that the pool sees at each pixel of a tile."""
        tiles = self.plan.tiles
        columns = self.borders.columns[pl.ds(column, tiles.columns)]
        return self.borders.rows[0, tiles.at(row, column)[0]] * columns[None]

    def feature(self, source: Plane, taps: Taps, row: Any, column: Any) -> jax.Array:
        """A convolution in a tile, as an operand of products: pixels L."""
        feature = taps.convolve(source, self.weights.taps, row, column)
        return self.plan.tiles.flat(feature).astype(self.weights.inner.dtype)

    def between(self, feature: jax.Array, expert: int, row: Any) -> jax.Array:
        """What the second convolution of a separable expert sees, in a tile of rows columns L."""
        tiles, product = self.plan.tiles, self.plan.dot(feature, self.weights.inner[expert])
        mixed = tiles.unflat(jnp.maximum(product, 0))
        if self.plan.halo:  # beyond the image it is to see zeros
            mixed = mixed * self.borders.inside[0, pl.ds(row, tiles.rows)]
        return mixed


def load(plan: Plan, image: Ref, state: Plane) -> None:
    """A strip with its halo, of the dtype of the network, into VMEM."""

    def row(i: Any) -> None:
        into = state.ref.at[plan.tiles.above - plan.halo + i, pl.ds(PAD, plan.tiles.width)]
        into[...] = image[0, 0, i].astype(jnp.float32)

    each(plan.tiles.height + 2 * plan.halo, row)


def _kernel(plan: Plan, *refs: Ref) -> None:
    (image,), inputs, others = split(plan, 1, refs)
    outputs, (state_ref, hidden_ref, update) = others[:-3], others[-3:]
    tiles, weights = plan.tiles, inputs.weights
    state, hidden = (Plane(ref, tiles) for ref in (state_ref, hidden_ref))
    dtype = image.dtype

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        state.clear_frame()
        hidden.clear_frame()
        load(plan, image, state)

    def mixed(feature: jax.Array, expert: int) -> jax.Array:
        return tiles.unflat(plan.dot(feature, weights.outer[expert]))

    def add(row: Any, column: Any, feature: jax.Array, expert: int) -> None:
        at = tiles.at(row, column)
        update[at] = update[at] + mixed(feature, expert)

    def start(row: Any, column: Any, pointwise: jax.Array, pooled: jax.Array) -> None:
        update[tiles.at(row, column)] = mixed(pointwise, 0) + mixed(pooled, plan.experts.pool)

    def pointwise_and_pool(row: Any, column: Any) -> tuple[jax.Array, jax.Array]:
        own = tiles.flat(state.read(row, column)).astype(dtype)
        mixed = jnp.maximum(plan.dot(own, weights.inner[0]), 0).astype(dtype)
        pooled = box_sum(state, row, column) * inputs.count(row, column)
        return mixed, tiles.flat(pooled).astype(dtype)

    tiles.walk_in_turn(0, pointwise_and_pool, start, dtype, dtype)

    def walk(source: Plane, taps: Taps, reach: int, then: Any) -> None:
        def convolved(row: Any, column: Any) -> tuple[jax.Array]:
            return (inputs.feature(source, taps, row, column),)

        tiles.walk_in_turn(plan.around(reach), convolved, then, dtype)

    for n, taps in enumerate(plan.experts.dilated, start=plan.experts.inner):
        walk(state, taps, 0, functools.partial(add, expert=n))
    for n, (taps, second) in enumerate(plan.experts.separable, start=1):

        def between(row: Any, column: Any, feature: jax.Array, n: int = n) -> None:
            hidden.write(row, column, inputs.between(feature, n, row))

        walk(state, taps, second.reach, between)
        walk(hidden, second, 0, functools.partial(add, expert=n))

    def last(row: Any, column: Any) -> None:
        at, before = tiles.at(row, column), state.read(row, column)
        change = update[at]
        after = jnp.maximum(jnp.maximum(change, 0) + before, 0).astype(dtype)
        outputs[0][(0, 0, *at)] = after
        for kept, value in zip(outputs[1:], (change, before), strict=False):
            kept[(0, 0, 0, *at)] = value.astype(dtype)
        if not plan.halo:  # the next step's
            state.write(row, column, after.astype(jnp.float32))

    tiles.walk(0, last)


ONCE = pl.Buffered(1)  # an image takes long to compute, and to wait for it a hundredth of that


def strip(plan: Plan, halo: int) -> Any:
    """The block of a strip with so many rows around it."""
    block = (1, 1, plan.tiles.height + 2 * halo, plan.tiles.width, LANES)
    return pl.BlockSpec(block, lambda n, t, s: (n, t, 0, 0, 0), pipeline_mode=ONCE)


def strip_of_step(plan: Plan, halo: int, order: Callable[[Any], Any]) -> Any:
    """The same, one for each step. order: which step the kernel computes in each turn."""
    block = (1, 1, 1, plan.tiles.height + 2 * halo, plan.tiles.width, LANES)
    return pl.BlockSpec(block, lambda n, t, s: (n, t, order(s), 0, 0, 0), pipeline_mode=ONCE)


def in_order(turn: Any) -> Any:
    """The steps one after the other."""
    return turn


def blocks(plan: Plan, order: Callable[[Any], Any]) -> list[Any]:
    """Of weights and borders, as `operands` has them."""
    experts, height, width = plan.experts, plan.tiles.height, plan.tiles.width
    found = [
        pl.BlockSpec((1, experts.taps, LANES), lambda n, t, s: (order(s), 0, 0)),
        pl.BlockSpec((1, experts.inner, LANES, LANES), lambda n, t, s: (order(s), 0, 0, 0)),
        pl.BlockSpec((1, 1, experts.outer, LANES, LANES), lambda n, t, s: (n, order(s), 0, 0, 0)),
        pl.BlockSpec((1, height, 1, LANES), lambda n, t, s: (t, 0, 0, 0)),
        pl.BlockSpec((width, LANES), lambda n, t, s: (0, 0)),
    ]
    if plan.halo:
        rows = height + 2 * plan.tiles.above
        found.append(pl.BlockSpec((1, rows, 1, LANES), lambda n, t, s: (t, 0, 0, 0)))
    return found


def operands(plan: Plan, weights: Weights, borders: Borders, dtype: jnp.dtype) -> list[jax.Array]:
    """Weights, the matrices in the dtype of the images, and borders; as `split` reads them."""
    matrices = weights.inner.astype(dtype), weights.outer.astype(dtype)
    return [weights.taps, *matrices, *(borders if plan.halo else borders[:2])]


def split(plan: Plan, images: int, refs: Sequence[Ref]) -> tuple[Any, Inputs, Sequence[Ref]]:
    """So many images, the other inputs, and what comes behind them."""
    last = images + 5 + (plan.halo > 0)
    taps, inner, outer = refs[images : images + 3]
    weights = Weights(taps.at[0], inner.at[0], outer.at[0, 0])
    inputs = Inputs(plan, weights, Borders(*refs[images + 3 : last]))
    return refs[:images], inputs, refs[last:]


def steps(
    plan: Plan, keep: bool, strips: jax.Array, weights: Weights, borders: Borders
) -> list[jax.Array]:
    """The state after all steps; of strips with a halo there is one.

    Args:
      keep: for the gradient, what the experts added at each step, and where a strip is the image
        also the state before it.
      strips: N T height+2*halo W L, rows that are not of the image being zero.

    Returns:
      N T height W L; to keep, N T steps height W L.
    """
    (count, number), turns = strips.shape[:2], len(weights.taps)
    height, width = plan.tiles.height, plan.tiles.width
    kept = keep * (1 if plan.halo else 2)
    shape = jax.ShapeDtypeStruct((count, number, height, width, LANES), strips.dtype)
    of_steps = jax.ShapeDtypeStruct((count, number, turns, *shape.shape[2:]), strips.dtype)
    frame = pltpu.VMEM(plan.tiles.frame, jnp.float32)
    return call(
        functools.partial(_kernel, plan),
        name=f"mefc{'_kept' * keep}_{count}x{number}x{turns}_{height}x{width}",
        grid=(count, number, turns),
        in_specs=[strip(plan, plan.halo), *blocks(plan, in_order)],
        out_specs=[strip(plan, 0), *[strip_of_step(plan, 0, in_order)] * kept],
        out_shape=[shape, *[of_steps] * kept],
        scratch_shapes=[frame, frame, pltpu.VMEM((height, width, LANES), jnp.float32)],
        vmem_bytes=plan.vmem,
    )(strips, *operands(plan, weights, borders, strips.dtype))
