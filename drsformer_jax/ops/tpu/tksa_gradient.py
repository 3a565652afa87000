"""The gradient of the first pass of sparse attention (TKSA) as a Pallas kernel.

Queries and keys are computed again. Three framed images hold what was convolved, and then its
gradient; three the gradients of queries, keys and values.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import SUBLANES, call, product, product_over_pixels
from drsformer_jax.ops.tpu.tiles import Plane, Ref
from drsformer_jax.ops.tpu.tksa_forward import (
    PARTS,
    TAP_ROWS,
    TAPS,
    Pass,
    Plan,
    Weights,
    of_group,
    operands,
    split,
    start,
    values_of_group,
    whole,
)


class _Gradient(Pass):
    """The steps of the kernel."""

    def __init__(self, plan: Plan, *refs: Ref) -> None:
        inputs, weights, inside, others = split(plan, 5, refs)
        super().__init__(plan, inputs[0], weights, inside)
        self.around_image, self.of_value, self.of_products, self.of_squares = inputs[1:]
        count = 5 if plan.has_biases else 4
        self.of_image, self.of_norm, self.of_expand, self.of_taps = others[:4]
        self.of_biases = others[4]  # where there are some
        self.normalised, self.of_normalised, *frames = others[count : count + 2 + 2 * PARTS]
        planes = [Plane(ref, plan.tiles) for ref in frames]
        self.parts, self.pulled = planes[:PARTS], planes[PARTS:]
        self.sums, self.norm_sums, *more = others[count + 2 + 2 * PARTS :]
        self.bias_sums = more[0] if plan.has_biases else None

    def begin(self) -> None:
        """Clears what is added to."""
        start(self.plan, [*self.parts, *self.pulled])
        self.sums[...] = jnp.zeros_like(self.sums)
        self.of_expand[...] = jnp.zeros_like(self.of_expand)
        if self.bias_sums is not None:
            self.bias_sums[...] = jnp.zeros_like(self.bias_sums)

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            self.normalise(self.normalised)

            def clear(row: Any, column: Any) -> None:
                at = self.tiles.at(row, column, self.plan.halo)
                shape = self.tiles.rows, self.tiles.columns, self.plan.channels
                self.of_normalised[at] = jnp.zeros(shape, jnp.float32)

            self.tiles.walk(self.plan.around, clear)

    def through_products(self) -> None:
        """Gradients of queries, keys and values."""
        tiles, precision = self.tiles, self.plan.precision
        of_products = self.of_products[0, 0, 0].astype(self.dtype)
        of_squares = 2 * self.of_squares[0, 0, 0]

        def again(row: Any, column: Any) -> tuple[jax.Array, ...]:
            of_value = self.of_value[(0, 0, *tiles.at(row, column))]
            self.pulled[2].write(row, column, of_value.astype(jnp.float32))
            self.add_to_bias(PARTS + 2, of_value.astype(jnp.float32))
            pair = self.compared(self.parts, row, column)
            return tuple(tiles.flat(tile).astype(self.dtype) for tile in pair)

        def back(row: Any, column: Any, query: jax.Array, key: jax.Array) -> None:
            transposed = (((1,), (1,)), ((), ()))
            of_query = lax.dot_general(
                key, of_products, transposed, precision, preferred_element_type=jnp.float32
            )
            of_query = of_query + query.astype(jnp.float32) * of_squares[0:1]
            of_key = product(query, of_products, precision)
            of_key = of_key + key.astype(jnp.float32) * of_squares[1:2]
            for part, gradient in enumerate((of_query, of_key)):
                tile = self.clear(tiles, row, tiles.unflat(gradient))
                self.pulled[part].write(row, column, tile)
                self.add_to_bias(PARTS + part, tile)

        tiles.walk_in_turn(0, again, back, self.dtype, self.dtype)

    def through_convolutions(self) -> None:
        """From `pulled` to the gradients of what was convolved, which take its place."""
        tiles = self.tiles.halved

        def body(row: Any, column: Any) -> None:
            for part in range(PARTS):
                plane = Plane(self.parts[part].ref, tiles)
                pulled = Plane(self.pulled[part].ref, tiles)
                own = plane.read(row, column)
                taps = self.weights.taps.at[0]
                gradient = TAPS[part].pull_back(pulled, own, taps, self.sums, row, column)
                gradient = self.clear(tiles, row, gradient)
                plane.write(row, column, gradient)
                self.add_to_bias(part, gradient)

        tiles.walk(self.plan.around, body)

    def add_to_bias(self, row: int, tile: jax.Array) -> None:
        """Adds the sum over the pixels of a tile to the gradient of a bias, where there are any."""
        if self.bias_sums is not None:
            sums = jnp.sum(tile.reshape(-1, SUBLANES, LANES), axis=0)
            self.bias_sums[row] = self.bias_sums[row] + sums

    def through_expansions(self) -> None:
        """Gradients of the 1x1 convolutions' kernels, and of what they read."""
        tiles, plan = self.plan.for_products, self.plan
        transposed = (((1,), (1,)), ((), ()))

        def body(row: Any, column: Any) -> None:
            at = tiles.at(row, column, plan.halo)
            pixels = tiles.flat(self.normalised[at])
            total = tiles.flat(self.of_normalised[at])
            for part in range(PARTS):
                gradient = Plane(self.parts[part].ref, tiles).read(row, column)
                gradient = tiles.flat(gradient).astype(self.dtype)
                total = total + lax.dot_general(
                    gradient,
                    self.weights.expand[0, part],
                    transposed,
                    plan.precision,
                    preferred_element_type=jnp.float32,
                )
                self.of_expand[0, 0, 0, part] = self.of_expand[0, 0, 0, part] + product_over_pixels(
                    pixels, gradient, plan.precision
                )
            self.of_normalised[at] = tiles.unflat(total)

        tiles.walk(plan.around, body)

    def through_norm(self) -> None:
        """The gradient of the image, to which that of what went around the pass is added.

        Nothing is written to the outermost rows of a strip: they fill the array up.
        """
        tiles, plan = self.plan.for_products, self.plan
        self.norm_sums[...] = jnp.zeros_like(self.norm_sums)

        def body(row: Any, column: Any) -> None:
            at = tiles.at(row, column, plan.halo)
            pixels = self.pixels(tiles, row, column)
            gradient = tiles.flat(self.of_normalised[at])
            back = plan.norm.pull_back(pixels, self.weights.norm, gradient, self.norm_sums)
            around = tiles.flat(self.around_image[(0, 0, *at)]).astype(jnp.float32)
            self.of_image[(0, 0, *at)] = tiles.unflat(back + around).astype(self.dtype)

        tiles.walk(plan.around, body)
        self.of_norm[0, 0] = jnp.sum(self.norm_sums[...], axis=1)

    def end(self) -> None:
        """Sums over what is left of the pixels."""
        self.of_taps[0, 0, 0] = jnp.sum(self.sums[...], axis=1)
        if self.bias_sums is not None:
            self.of_biases[0, 0, 0] = jnp.sum(self.bias_sums[...], axis=1)


def _kernel(plan: Plan, *refs: Ref) -> None:
    gradient = _Gradient(plan, *refs)
    gradient.begin()
    gradient.expand(gradient.normalised, gradient.parts)
    gradient.through_products()
    gradient.through_convolutions()
    gradient.through_expansions()
    gradient.end()
    pl.when(pl.program_id(2) == plan.groups - 1)(gradient.through_norm)


def compare_gradient(
    plan: Plan,
    strips: jax.Array,
    cotangents: tuple[jax.Array, ...],
    weights: Weights,
    inside: jax.Array,
) -> tuple[jax.Array, Weights]:
    """Gradients of the strips, and of the weights in float32.

    Args:
      strips, weights, inside: as for `tksa_forward.compare`.
      cotangents: of its results, and before them of the strips, which went around it as well.
    """
    count, number = strips.shape[:2]
    tiles, groups, channels = plan.tiles, plan.groups, plan.channels
    arrays, blocks = operands(plan, weights, inside, strips.dtype)
    sizes = [(PARTS, channels, LANES), (TAP_ROWS, LANES)]
    sizes += [(SUBLANES, LANES)] * plan.has_biases
    norm = weights.norm.shape
    framed = pltpu.VMEM(tiles.frame, jnp.float32)
    biases = [pltpu.VMEM((SUBLANES, SUBLANES, LANES), jnp.float32)] * plan.has_biases
    of_strips, of_norm, *of_groups = call(
        functools.partial(_kernel, plan),
        name=f"tksa_gradient_{channels}_{count}x{number}_{tiles.height}x{tiles.width}",
        grid=(count, number, groups),
        in_specs=[
            *[whole(plan)] * 2,
            values_of_group(plan),
            *(of_group(*size) for size in ((LANES, LANES), (2, LANES))),
            *blocks,
        ],
        out_specs=[
            whole(plan),
            pl.BlockSpec((1, 1, *norm), lambda n, t, g: (n, t, 0, 0)),
            *(of_group(*size) for size in sizes),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(strips.shape, strips.dtype),
            jax.ShapeDtypeStruct((count, number, *norm), jnp.float32),
            *(jax.ShapeDtypeStruct((count, number, groups, *n), jnp.float32) for n in sizes),
        ],
        scratch_shapes=[
            pltpu.VMEM((plan.rows, tiles.width, channels), strips.dtype),
            pltpu.VMEM((plan.rows, tiles.width, channels), jnp.float32),
            *[framed] * (2 * PARTS),
            pltpu.VMEM((TAP_ROWS, SUBLANES, LANES), jnp.float32),
            pltpu.VMEM((norm[0], SUBLANES, channels), jnp.float32),
            *biases,
        ],
        vmem_bytes=plan.vmem,
    )(strips, *cotangents, *arrays)
    total = functools.partial(jnp.sum, axis=(0, 1))
    of_biases = total(of_groups[2]) if plan.has_biases else None
    of_expand, of_taps = map(total, of_groups[:2])
    return of_strips, Weights(total(of_norm), of_expand, of_taps, of_biases)
