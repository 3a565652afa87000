"""The gradient of one step of the mixture of experts (MEFC) as a Pallas kernel.

Features are computed again, an expert at a time, so that four framed images in VMEM serve all.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.mefc_forward import (
    DILATED,
    HALO,
    INNER,
    OUTER,
    POOL,
    SEPARABLE,
    TAP_ROWS,
    Borders,
    Inputs,
    Plan,
    Weights,
    for_products,
    load,
    specs,
)
from drsformer_jax.ops.tpu.tiles import LANES, PAD, Plane, Ref, Taps, box_sum

# Contracting dimensions: x^T y over pixels, and x M^T.
_OVER_PIXELS = ((0,), (0,))
_TRANSPOSED = ((1,), (1,))


class _Gradient:
    """The steps of the kernel, one a method; a tile is given by its row and column."""

    def __init__(self, plan: Plan, *refs: Ref) -> None:
        self.plan, self.tiles = plan, plan.tiles
        self.image, self.kept, self.cotangent = refs[:3]
        self.weights = Weights(*refs[3:6])
        self.inputs = Inputs(plan, self.weights, Borders(*refs[6:9]))
        self.of_image, self.of_taps, self.of_inner, self.of_outer = refs[9:13]
        planes = (Plane(ref, plan.tiles) for ref in refs[13:17])
        self.state, self.hidden, self.change, self.total = planes
        self.pulled, self.feature, self.sums = refs[17:]
        self.dtype = self.image.dtype

    def flat(self, tile: jax.Array) -> jax.Array:
        """A tile as an operand of products."""
        return self.tiles.flat(tile).astype(self.dtype)

    def start(self) -> None:
        """Clears what is added to; the gradients of the sum and of what the experts add."""

        @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
        def _() -> None:
            for plane in (self.state, self.hidden, self.change, self.total):
                plane.clear()

        self.clear_beyond(self.total)
        for ref in (self.of_inner, self.of_outer, self.sums):
            ref[...] = jnp.zeros_like(ref)
        load(self.plan, self.image, self.state)

        def body(row: Any, column: Any) -> None:
            at = (0, 0, *self.tiles.at(row, column))
            change = self.kept[at].astype(jnp.float32)
            after = jnp.maximum(change, 0) + self.state.read(row, column)
            gradient = jnp.where(after > 0, self.cotangent[at].astype(jnp.float32), 0)
            self.total.write(row, column, gradient)
            pulled = jnp.where(change > 0, gradient, 0)
            self.pulled[self.tiles.at(row, column)] = pulled.astype(self.dtype)

        self.tiles.walk(0, body)

    def clear_beyond(self, plane: Plane) -> None:
        """Zero above and below a strip, where another expert may have left something."""
        if self.plan.halo:
            plane.clear_beyond()

    def through(self, expert: int, feature: jax.Array, row: Any, column: Any) -> jax.Array:
        """The gradient of a feature in a tile, from its own value: adds that of its matrix."""
        pulled = self.tiles.flat(self.pulled[self.tiles.at(row, column)])
        product = self.plan.dot(self.flat(feature), pulled, _OVER_PIXELS)
        self.of_outer[0, 0, expert] = self.of_outer[0, 0, expert] + product
        matrix = self.weights.outer[0, expert]
        return self.tiles.unflat(self.plan.dot(pulled, matrix, _TRANSPOSED))

    def pointwise(self) -> None:
        """The expert without neighbours."""

        def body(row: Any, column: Any) -> None:
            own = self.flat(self.state.read(row, column))
            feature = jnp.maximum(self.plan.dot(own, self.weights.inner[0]), 0)
            feature = self.tiles.unflat(feature)
            gradient = self.through(0, feature, row, column)
            inside = self.flat(jnp.where(feature > 0, gradient, 0))
            self.of_inner[0, 0, 0] = self.of_inner[0, 0, 0] + self.plan.dot(
                own, inside, _OVER_PIXELS
            )
            back = self.plan.dot(inside, self.weights.inner[0], _TRANSPOSED)
            self.total.add(row, column, self.tiles.unflat(back))

        self.tiles.walk(0, body)

    def pool(self) -> None:
        """The mean of 3x3 pixels."""
        self.clear_beyond(self.change)

        def body(row: Any, column: Any) -> None:
            count = self.inputs.count(row, column)
            pooled = box_sum(self.state, row, column) * count
            self.change.write(row, column, self.through(POOL, pooled, row, column) * count)

        def back(row: Any, column: Any) -> None:
            self.total.add(row, column, box_sum(self.change, row, column))

        self.tiles.walk(0, body)
        self.tiles.walk(self.plan.around(1), back)

    def last(self, taps: Taps, source: Plane, expert: int) -> None:
        """The gradient of an expert's last feature, a convolution of `source`."""
        self.clear_beyond(self.change)

        def body(row: Any, column: Any) -> None:
            feature = taps.convolve(source, self.weights.taps, row, column)
            self.change.write(row, column, self.through(expert, feature, row, column))

        self.tiles.walk(0, body)

    def into_total(self, taps: Taps) -> None:
        """Through a convolution of the state, whose result's gradient is `change`."""

        def body(row: Any, column: Any) -> None:
            own = self.state.read(row, column)
            back = taps.pull_back(
                self.change, own, self.weights.taps, self.sums, row, column
            )
            self.total.add(row, column, back)

        self.tiles.walk(self.plan.around(HALO), body)

    def separable(self, first: Taps, second: Taps, expert: int) -> None:
        """Two convolutions with a product and a ReLU between them."""
        around = self.plan.around(second.reach)
        at = functools.partial(self.tiles.at, around=self.tiles.around(around))

        def between(row: Any, column: Any) -> None:
            feature, mixed = self.inputs.hidden(self.state, first, expert, row, column)
            self.feature[at(row, column)] = self.tiles.unflat(feature)
            self.hidden.write(row, column, mixed)

        def back(row: Any, column: Any) -> None:
            own = self.hidden.read(row, column)
            gradient = second.pull_back(
                self.change, own, self.weights.taps, self.sums, row, column
            )
            inside = jnp.where(own > 0, gradient, 0)
            self.hidden.write(row, column, inside)
            product = self.plan.dot(
                self.tiles.flat(self.feature[at(row, column)]), self.flat(inside), _OVER_PIXELS
            )
            self.of_inner[0, 0, expert] = self.of_inner[0, 0, expert] + product

        def out(row: Any, column: Any) -> None:
            inside = self.flat(self.hidden.read(row, column))
            gradient = self.plan.dot(inside, self.weights.inner[expert], _TRANSPOSED)
            self.change.write(row, column, self.tiles.unflat(gradient))

        self.tiles.walk(around, between)
        self.last(second, self.hidden, expert)
        self.tiles.walk(around, back)
        self.tiles.walk(around, out)
        self.into_total(first)

    def finish(self) -> None:
        """Writes the gradient of the strip, and sums over what is left of the pixels."""
        plan = self.plan

        def row(i: jax.Array, carry: int) -> int:
            of_row = self.total.ref[plan.tiles.above - plan.halo + i, pl.ds(PAD, self.tiles.width)]
            self.of_image[0, 0, i] = of_row.astype(self.dtype)
            return carry

        lax.fori_loop(0, self.tiles.height + 2 * plan.halo, row, 0)
        self.of_taps[0, 0] = jnp.sum(self.sums[...], axis=1)


def _kernel(plan: Plan, *refs: Ref) -> None:
    gradient = _Gradient(plan, *refs)
    gradient.start()
    gradient.pointwise()
    gradient.pool()
    for n, taps in enumerate(DILATED):
        gradient.last(taps, gradient.state, INNER + n)
        gradient.into_total(taps)
    for n, (first, second) in enumerate(SEPARABLE, start=1):
        gradient.separable(first, second, n)
    gradient.finish()


def step_gradient(
    plan: Plan,
    strips: jax.Array,
    kept: jax.Array,
    cotangent: jax.Array,
    weights: Weights,
    borders: Borders,
) -> tuple[jax.Array, Weights]:
    """Gradients of the strips with their halo, and of the weights in float32.

    Args:
      strips, weights, borders: as for `mefc_forward.step`.
      kept: its second result.
      cotangent: of its first result.
    """
    count, number = strips.shape[:2]
    height, width = plan.tiles.height, plan.tiles.width
    wide, narrow, rest = specs(plan)
    frame = pltpu.VMEM(plan.tiles.frame, jnp.float32)
    between = height + 2 * plan.tiles.around(plan.around(HALO // 2))
    sizes = [(TAP_ROWS, LANES), (INNER, LANES, LANES), (OUTER, LANES, LANES)]

    def block(*size: int) -> Any:
        return pl.BlockSpec((1, 1, *size), lambda n, t: (n, t, *[0] * len(size)))

    of_strips, of_taps, of_inner, of_outer = pl.pallas_call(
        functools.partial(_kernel, plan),
        grid=(count, number),
        in_specs=[wide, narrow, narrow, *rest],
        out_specs=[wide, *(block(*size) for size in sizes)],
        out_shape=[
            jax.ShapeDtypeStruct(strips.shape, strips.dtype),
            *(jax.ShapeDtypeStruct((count, number, *size), jnp.float32) for size in sizes),
        ],
        scratch_shapes=[
            *[frame] * 4,
            pltpu.VMEM((height, width, LANES), strips.dtype),
            pltpu.VMEM((between, width, LANES), strips.dtype),
            pltpu.VMEM((TAP_ROWS, 8, LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            vmem_limit_bytes=plan.vmem, dimension_semantics=("arbitrary",) * 2
        ),
        interpret=plan.interpret,
        name=f"mefc_gradient_{height}x{width}",
    )(strips, kept, cotangent, *for_products(weights, strips.dtype), *borders)
    return of_strips, Weights(
        jnp.sum(of_taps, axis=(0, 1)), jnp.sum(of_inner, axis=(0, 1)), jnp.sum(of_outer, axis=1)
    )
