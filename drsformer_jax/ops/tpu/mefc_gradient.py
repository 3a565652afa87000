"""The gradient of steps of the mixture of experts (MEFC) as a Pallas kernel, the last step first.

Features are computed again, an expert at a time, so that four framed images in VMEM serve all.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import PAD, SUBLANES, call, each
from drsformer_jax.ops.tpu.mefc_forward import (
    Borders,
    Plan,
    Weights,
    blocks,
    load,
    operands,
    split,
    strip,
    strip_of_step,
)
from drsformer_jax.ops.tpu.tiles import Plane, Ref, Taps, box_sum

# Contracting dimensions: x^T y over pixels, and x M^T.
_OVER_PIXELS = ((0,), (0,))
_TRANSPOSED = ((1,), (1,))


class _Gradient:
    """The steps of the kernel, one a method; a tile is given by its row and column."""

    def __init__(self, plan: Plan, *refs: Ref) -> None:
        self.plan, self.tiles = plan, plan.tiles
        (self.image, self.kept, self.cotangent), self.inputs, others = split(plan, 3, refs)
        self.weights = self.inputs.weights
        self.of_image, self.of_taps, self.of_inner, self.of_outer = others[:4]
        planes = (Plane(ref, plan.tiles) for ref in others[4:8])
        self.state, self.hidden, self.change, self.total = planes
        self.pulled, self.feature, self.sums = others[8:]
        self.dtype = self.image.dtype

    def flat(self, tile: jax.Array) -> jax.Array:
        """A tile as an operand of products."""
        return self.tiles.flat(tile).astype(self.dtype)

    def start(self) -> None:
        """Clears what is added to; the gradients of the sum and of what the experts add."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            for plane in (self.state, self.hidden, self.change, self.total):
                plane.clear_frame()

            def begin(row: Any, column: Any) -> None:
                gradient = self.cotangent[(0, 0, *self.tiles.at(row, column))]
                self.total.write(row, column, gradient.astype(jnp.float32))

            self.tiles.walk(0, begin)

        for ref in (self.of_inner, self.of_outer, self.sums):
            ref[...] = jnp.zeros_like(ref)
        load(self.plan, self.image.at[0], self.state)

        def body(row: Any, column: Any) -> None:
            change = self.kept[(0, 0, 0, *self.tiles.at(row, column))].astype(jnp.float32)
            after = jnp.maximum(change, 0) + self.state.read(row, column)
            gradient = jnp.where(after > 0, self.total.read(row, column), 0)
            self.total.write(row, column, gradient)
            pulled = jnp.where(change > 0, gradient, 0)
            self.pulled[self.tiles.at(row, column)] = pulled.astype(self.dtype)

        self.tiles.walk(0, body)

    def clear_beyond(self, plane: Plane) -> None:
        """Zero above and below a strip, where another expert may have left something."""
        if self.plan.halo:
            plane.clear_beyond()

    def pull(self, expert: int, row: Any, column: Any) -> jax.Array:
        """The gradient of an expert's last feature, in a tile of rows columns L."""
        pulled = self.tiles.flat(self.pulled[self.tiles.at(row, column)])
        return self.tiles.unflat(self.plan.dot(pulled, self.weights.outer[expert], _TRANSPOSED))

    def match(self, expert: int, row: Any, column: Any, feature: jax.Array) -> None:
        """Adds to the gradient of the matrix behind a feature, pixels L."""
        pulled = self.tiles.flat(self.pulled[self.tiles.at(row, column)])
        product = self.plan.dot(feature, pulled, _OVER_PIXELS)
        self.of_outer[0, 0, 0, expert] = self.of_outer[0, 0, 0, expert] + product

    def match_inner(self, expert: int, feature: jax.Array, gradient: jax.Array) -> None:
        """The same of the matrix between the convolutions of a separable expert."""
        product = self.plan.dot(feature, gradient, _OVER_PIXELS)
        self.of_inner[0, 0, 0, expert] = self.of_inner[0, 0, 0, expert] + product

    def pointwise(self) -> None:
        """The expert without neighbours."""
        inner = self.weights.inner[0]

        def forward(row: Any, column: Any) -> tuple[jax.Array, jax.Array]:
            own = self.flat(self.state.read(row, column))
            feature = jnp.maximum(self.plan.dot(own, inner), 0).astype(self.dtype)
            return feature, self.flat(self.pull(0, row, column))

        def back(row: Any, column: Any, feature: jax.Array, gradient: jax.Array) -> None:
            self.match(0, row, column, feature)
            inside = jnp.where(feature > 0, gradient, jnp.zeros_like(gradient))
            self.match_inner(0, self.flat(self.state.read(row, column)), inside)
            behind = self.plan.dot(inside, inner, _TRANSPOSED)
            self.total.add(row, column, self.tiles.unflat(behind))

        self.tiles.walk_in_turn(0, forward, back, self.dtype, self.dtype)

    def pool(self) -> None:
        """The mean of 3x3 pixels."""
        self.clear_beyond(self.change)

        def forward(row: Any, column: Any) -> tuple[jax.Array]:
            count = self.inputs.count(row, column)
            self.change.write(row, column, self.pull(self.plan.experts.pool, row, column) * count)
            return (self.flat(box_sum(self.state, row, column) * count),)

        def back(row: Any, column: Any) -> None:
            self.total.add(row, column, box_sum(self.change, row, column))

        self.tiles.walk_in_turn(
            0, forward, functools.partial(self.match, self.plan.experts.pool), self.dtype
        )
        self.tiles.walk(self.plan.around(1), back)

    def last(self, taps: Taps, source: Plane, expert: int) -> None:
        """From the gradient of an expert's last feature, a convolution of `source`."""
        self.clear_beyond(self.change)

        def forward(row: Any, column: Any) -> tuple[jax.Array]:
            self.change.write(row, column, self.pull(expert, row, column))
            return (self.inputs.feature(source, taps, row, column),)

        self.tiles.walk_in_turn(0, forward, functools.partial(self.match, expert), self.dtype)

    def into_total(self, taps: Taps) -> None:
        """Through a convolution of the state, whose result's gradient is `change`."""
        pull_back = self.pull_back(taps)

        def body(row: Any, column: Any) -> None:
            state, total = (Plane(p.ref, self.tiles.halved) for p in (self.state, self.total))
            total.add(row, column, pull_back(state.read(row, column), row, column))

        self.tiles.halved.walk(self.plan.around(self.plan.halo), body)

    def pull_back(self, taps: Taps) -> Any:
        """`Taps.pull_back` through the result whose gradient is `change`."""
        change = Plane(self.change.ref, self.tiles.halved)

        def of(own: jax.Array, row: Any, column: Any) -> jax.Array:
            return taps.pull_back(change, own, self.weights.taps, self.sums, row, column)

        return of

    def separable(self, first: Taps, second: Taps, expert: int) -> None:
        """Two convolutions with a product and a ReLU between them."""
        around = self.plan.around(second.reach)
        hidden = Plane(self.hidden.ref, self.tiles.halved)
        pull_back = self.pull_back(second)

        def at(row: Any, column: Any) -> Any:
            return self.tiles.at(row, column, self.tiles.around(around))

        def forward(row: Any, column: Any) -> tuple[jax.Array]:
            feature = self.inputs.feature(self.state, first, row, column)
            self.feature[at(row, column)] = self.tiles.unflat(feature)
            return (feature,)

        def between(row: Any, column: Any, feature: jax.Array) -> None:
            self.hidden.write(row, column, self.inputs.between(feature, expert, row))

        def back(row: Any, column: Any) -> None:
            own = hidden.read(row, column)
            gradient = pull_back(own, row, column)
            hidden.write(row, column, jnp.where(own > 0, gradient, 0))

        def out(row: Any, column: Any) -> None:
            inside = self.flat(self.hidden.read(row, column))
            self.match_inner(expert, self.tiles.flat(self.feature[at(row, column)]), inside)
            gradient = self.plan.dot(inside, self.weights.inner[expert], _TRANSPOSED)
            self.change.write(row, column, self.tiles.unflat(gradient))

        self.tiles.walk_in_turn(around, forward, between, self.dtype)
        self.last(second, self.hidden, expert)
        self.tiles.halved.walk(around, back)
        self.tiles.walk(around, out)
        self.into_total(first)

    def finish(self) -> None:
        """Writes the gradient of the strip, and sums over what is left of the pixels."""
        plan = self.plan

        def row(i: Any) -> None:
            of_row = self.total.ref[plan.tiles.above - plan.halo + i, pl.ds(PAD, self.tiles.width)]
            self.of_image[0, 0, i] = of_row.astype(self.dtype)

        each(self.tiles.height + 2 * plan.halo, row)
        self.of_taps[0, 0, 0] = jnp.sum(self.sums[...], axis=1)


def _kernel(plan: Plan, *refs: Ref) -> None:
    gradient = _Gradient(plan, *refs)
    gradient.start()
    gradient.pointwise()
    gradient.pool()
    for n, taps in enumerate(plan.experts.dilated, start=plan.experts.inner):
        gradient.last(taps, gradient.state, n)
        gradient.into_total(taps)
    for n, (first, second) in enumerate(plan.experts.separable, start=1):
        gradient.separable(first, second, n)
    gradient.finish()


def steps_gradient(
    plan: Plan,
    before: jax.Array,
    kept: jax.Array,
    cotangent: jax.Array,
    weights: Weights,
    borders: Borders,
) -> tuple[jax.Array, Weights]:
    """Gradients of the first strips with their halo, and of the weights in float32.

    Args:
      before: N T steps height+2*halo W L, the strips before each step.
      kept: N T steps height W L, what the experts added.
      cotangent: N T height W L, of the last state.
      weights, borders: as for `mefc_forward.steps`.
    """
    count, number, turns = before.shape[:3]
    height, width = plan.tiles.height, plan.tiles.width

    def order(turn: Any) -> Any:
        return turns - 1 - turn

    frame = pltpu.VMEM(plan.tiles.frame, jnp.float32)
    experts = plan.experts
    reach = max(second.reach for _, second in experts.separable)
    between = height + 2 * plan.tiles.around(plan.around(reach))
    sizes = [(experts.taps, LANES), *((n, LANES, LANES) for n in (experts.inner, experts.outer))]

    def block(*size: int) -> Any:
        return pl.BlockSpec((1, 1, 1, *size), lambda n, t, s: (n, t, order(s), *[0] * len(size)))

    of_strips, of_taps, of_inner, of_outer = call(
        functools.partial(_kernel, plan),
        name=f"mefc_gradient_{count}x{number}x{turns}_{height}x{width}",
        grid=(count, number, turns),
        in_specs=[
            strip_of_step(plan, plan.halo, order),
            strip_of_step(plan, 0, order),
            strip(plan, 0),
            *blocks(plan, order),
        ],
        out_specs=[strip(plan, plan.halo), *(block(*size) for size in sizes)],
        out_shape=[
            jax.ShapeDtypeStruct((count, number, *before.shape[3:]), before.dtype),
            *(jax.ShapeDtypeStruct((count, number, turns, *size), jnp.float32) for size in sizes),
        ],
        scratch_shapes=[
            *[frame] * 4,
            pltpu.VMEM((height, width, LANES), before.dtype),
            pltpu.VMEM((between, width, LANES), before.dtype),
            pltpu.VMEM((experts.taps, SUBLANES, LANES), jnp.float32),
        ],
        vmem_bytes=plan.vmem,
    )(before, kept, cotangent, *operands(plan, weights, borders, before.dtype))
    return of_strips, Weights(
        jnp.sum(of_taps, axis=(0, 1)), jnp.sum(of_inner, axis=(0, 1)), jnp.sum(of_outer, axis=1)
    )
