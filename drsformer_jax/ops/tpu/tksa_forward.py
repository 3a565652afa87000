"""The first pass of sparse attention (TKSA) as a Pallas kernel, see `ops.tpu.tksa_kernel`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import SUBLANES, call, product, product_over_pixels
from drsformer_jax.ops.tpu.layer_norm import LayerNorm
from drsformer_jax.ops.tpu.tiles import Plane, Ref, Taps, Tiles

# Queries, keys and values.
PARTS = 3
TAPS = tuple(Taps(3, 1, 9 * part) for part in range(PARTS))
# Rows of an array of taps, whole registers.
TAP_ROWS = -(-9 * PARTS // SUBLANES) * SUBLANES
REACH = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the pass is computed; hashable, fixed when it is traced.

    Attributes:
      tiles: of a strip, which may be the whole image.
      is_strip: whether rows of others, or of nobody, are above and below it, `tiles.above`.
      channels: of the image.
      groups: of heads, each in LANES lanes.
      norm: LayerNorm in front.
      has_biases: of the convolutions.
      precision: of products.
      vmem: bytes of it that a kernel may have.
    """

    tiles: Tiles
    is_strip: bool
    channels: int
    groups: int
    norm: LayerNorm
    has_biases: bool
    precision: lax.Precision
    vmem: int

    @property
    def halo(self) -> int:
        """Rows of the array above and below a strip."""
        return self.tiles.above if self.is_strip else 0

    @property
    def around(self) -> int:
        """Rows that are computed above and below a strip."""
        return REACH if self.is_strip else 0

    @property
    def for_products(self) -> Tiles:
        """Tiles for the matrix unit, and for sums over channels, which take long to come back."""
        return self.tiles if self.is_strip else self.tiles.larger

    @property
    def rows(self) -> int:
        """Of the array."""
        return self.tiles.height + 2 * self.halo


class Weights(NamedTuple):
    """Float32; L is LANES, each group's heads side by side.

    Attributes:
      norm: 1 C, or 2 C with the bias.
      expand: G PARTS C L.
      taps: G TAP_ROWS L.
      biases: G 8 L, of the three expansions and behind the three convolutions; None without.
    """

    norm: jax.Array
    expand: jax.Array
    taps: jax.Array
    biases: jax.Array | None


class Pass:
    """What the pass and its gradient both do; a tile is given by its row and column."""

    def __init__(self, plan: Plan, image: Ref, weights: Weights, inside: Ref | None) -> None:
        self.plan, self.tiles = plan, plan.tiles
        self.image, self.weights, self.inside = image, weights, inside
        self.dtype = image.dtype

    def pixels(self, tiles: Tiles, row: Any, column: Any) -> jax.Array:
        """The image in a tile: pixels C, float32."""
        tile = self.image[(0, 0, *tiles.at(row, column, self.plan.halo))]
        return tiles.flat(tile.astype(jnp.float32))

    def normalise(self, into: Ref) -> None:
        """LayerNorm of all pixels, in the dtype of the image."""
        tiles = self.plan.for_products

        def body(row: Any, column: Any) -> None:
            pixels = self.pixels(tiles, row, column)
            value = self.plan.norm.apply(pixels, self.weights.norm).value
            at = tiles.at(row, column, self.plan.halo)
            into[at] = tiles.unflat(value).astype(self.dtype)

        tiles.walk(self.plan.around, body)

    def expand(self, normalised: Ref, parts: Sequence[Plane]) -> None:
        """The 1x1 convolutions to queries, keys and values."""
        tiles = self.plan.for_products

        def body(row: Any, column: Any) -> None:
            pixels = tiles.flat(normalised[tiles.at(row, column, self.plan.halo)])
            for part, plane in enumerate(parts):
                y = product(pixels, self.weights.expand[0, part], self.plan.precision)
                if self.weights.biases is not None:
                    y = y + self.weights.biases[0, part : part + 1, :]
                plane_there = Plane(plane.ref, tiles)
                plane_there.write(row, column, self.clear(tiles, row, tiles.unflat(y)))

        tiles.walk(self.plan.around, body)

    def clear(self, tiles: Tiles, row: Any, tile: jax.Array) -> jax.Array:
        """Zero in rows that are not of the image."""
        return tile if self.inside is None else tile * self.inside[0, pl.ds(row, tiles.rows)]

    def convolve(self, part: int, plane: Plane, row: Any, column: Any) -> jax.Array:
        """The 3x3 convolution of queries, keys or values in a tile."""
        y = TAPS[part].convolve(plane, self.weights.taps.at[0], row, column)
        if self.weights.biases is not None:
            y = y + self.weights.biases[0, PARTS + part : PARTS + part + 1, :]
        return y

    def compared(self, parts: Sequence[Plane], row: Any, column: Any) -> tuple[jax.Array, ...]:
        """Queries and keys in a tile, zero in rows that are not of the image."""
        return tuple(
            self.clear(self.tiles, row, self.convolve(part, parts[part], row, column))
            for part in range(2)
        )


def _kernel(plan: Plan, *refs: Ref) -> None:
    (image,), weights, inside, others = split(plan, 1, refs)
    value, products, squares, normalised, *frames, sums = others
    parts = [Plane(ref, plan.tiles) for ref in frames]
    work = Pass(plan, image, weights, inside)
    start(plan, parts)
    pl.when(pl.program_id(2) == 0)(lambda: work.normalise(normalised))
    work.expand(normalised, parts)
    products[...] = jnp.zeros_like(products)
    sums[...] = jnp.zeros_like(sums)
    tiles = plan.tiles

    def compare(row: Any, column: Any) -> tuple[jax.Array, ...]:
        v = work.convolve(2, parts[2], row, column)
        value[(0, 0, *tiles.at(row, column))] = v.astype(work.dtype)
        pair = work.compared(parts, row, column)
        for i, tile in enumerate(pair):
            square = jnp.square(tile).reshape(-1, SUBLANES, LANES)
            sums[i] = sums[i] + jnp.sum(square, axis=0)
        return tuple(tiles.flat(tile).astype(work.dtype) for tile in pair)

    def add(row: Any, column: Any, query: jax.Array, key: jax.Array) -> None:
        products[0, 0, 0] = products[0, 0, 0] + product_over_pixels(query, key, plan.precision)

    tiles.walk_in_turn(0, compare, add, work.dtype, work.dtype)
    squares[0, 0, 0] = jnp.sum(sums[...], axis=1)


def start(plan: Plan, planes: Sequence[Plane]) -> None:
    """Zeros around the first strip of an image, where they stay."""

    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _() -> None:
        for plane in planes:
            plane.clear_frame()


def split(
    plan: Plan, images: int, refs: Sequence[Ref]
) -> tuple[Sequence[Ref], Weights, Ref | None, Sequence[Ref]]:
    """Images, weights, the rows inside, and what comes behind: as `operands` puts them."""
    others = list(refs[images:])
    norm, expand, taps = (others.pop(0) for _ in range(3))
    biases = others.pop(0) if plan.has_biases else None
    inside = others.pop(0) if plan.is_strip else None
    return refs[:images], Weights(norm, expand, taps, biases), inside, others


def operands(
    plan: Plan, weights: Weights, inside: jax.Array, dtype: jnp.dtype
) -> tuple[list[jax.Array], list[Any]]:
    """Weights, the matrices in the dtype of the image, and rows inside; and their blocks."""
    channels = plan.channels
    arrays = [weights.norm, weights.expand.astype(dtype), weights.taps]
    blocks = [
        pl.BlockSpec(weights.norm.shape, lambda n, t, g: (0, 0)),
        pl.BlockSpec((1, PARTS, channels, LANES), lambda n, t, g: (g, 0, 0, 0)),
        pl.BlockSpec((1, TAP_ROWS, LANES), lambda n, t, g: (g, 0, 0)),
    ]
    if weights.biases is not None:
        arrays.append(weights.biases)
        blocks.append(pl.BlockSpec((1, SUBLANES, LANES), lambda n, t, g: (g, 0, 0)))
    if plan.is_strip:
        arrays.append(inside)
        blocks.append(pl.BlockSpec((1, plan.rows, 1, LANES), lambda n, t, g: (t, 0, 0, 0)))
    return arrays, blocks


def whole(plan: Plan) -> Any:
    """The block of an image's strip, all its channels."""
    shape = (1, 1, plan.rows, plan.tiles.width, plan.channels)
    return pl.BlockSpec(shape, lambda n, t, g: (n, t, 0, 0, 0))


def of_group(*shape: int) -> Any:
    """The block of a group's array."""
    return pl.BlockSpec((1, 1, 1, *shape), lambda n, t, g: (n, t, g, *[0] * len(shape)))


def values_of_group(plan: Plan) -> Any:
    """The block of a group's values."""
    shape = (1, 1, plan.tiles.height, plan.tiles.width, LANES)
    return pl.BlockSpec(shape, lambda n, t, g: (n, t, 0, 0, g))


def compare(
    plan: Plan, strips: jax.Array, weights: Weights, inside: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values, and what the attention map is made of.

    Args:
      strips: N T rows W C, rows that are not of the image being zero.
      inside: T rows 1 L, whether a row is one of the image.

    Returns:
      Values N T height W GL in the dtype of strips; products of queries and keys over all pixels
      N T G L L, sums of the squares of both N T G 2 L, float32.
    """
    count, number = strips.shape[:2]
    tiles, groups = plan.tiles, plan.groups
    arrays, blocks = operands(plan, weights, inside, strips.dtype)
    sizes = [(LANES, LANES), (2, LANES)]
    values = (count, number, tiles.height, tiles.width, groups * LANES)
    found = call(
        functools.partial(_kernel, plan),
        name=f"tksa_{plan.channels}_{count}x{number}_{tiles.height}x{tiles.width}",
        grid=(count, number, groups),
        in_specs=[whole(plan), *blocks],
        out_specs=[values_of_group(plan), *(of_group(*size) for size in sizes)],
        out_shape=[
            jax.ShapeDtypeStruct(values, strips.dtype),
            *(jax.ShapeDtypeStruct((count, number, groups, *n), jnp.float32) for n in sizes),
        ],
        scratch_shapes=[
            pltpu.VMEM((plan.rows, tiles.width, plan.channels), strips.dtype),
            *[pltpu.VMEM(tiles.frame, jnp.float32)] * PARTS,
            pltpu.VMEM((2, SUBLANES, LANES), jnp.float32),
        ],
        vmem_bytes=plan.vmem,
    )(strips, *arrays)
    return tuple(found)
