"""The gradient of MSFN's kernel: the hidden channels are computed again and stay in fast memory.

Each shifted gradient that is loaded serves both the gradient of the input and that of the kernel.
The grid goes over parts of the batch, blocks and images: gradients of the weights are summed in
fast memory over the images of a part, and those of the image outside over the blocks.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import (
    PAD,
    PIXELS_AT_A_TIME,
    SUBLANES,
    added,
    call,
    frame,
    product_over_pixels,
    product_transposed,
)
from drsformer_jax.ops.tpu.msfn_layout import REACH, SIZE, TAPS, Layout, Weights, weight_specs
from drsformer_jax.ops.tpu.msfn_passes import (
    MEMBERS,
    Place,
    convolve_first,
    convolve_second,
    each_place,
    each_product,
    expand,
    flat,
    pixels,
    tap,
    window,
)


def gradient_call(
    layout: Layout, bounds: jax.Array | None, x: jax.Array, weights: Weights, gradient: jax.Array
) -> tuple[jax.Array, Weights]:
    """Gradients of the image and, float32, of the weights.

    Args:
      bounds: as for the kernel itself.
      x: images input_rows width inputs.
      gradient: of the result, images rows width channels.
    """
    blocks, batch = layout.blocks, x.shape[0] // layout.images
    parts = math.gcd(batch, layout.cores)
    each_part = batch // parts

    def images(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec(
            (layout.images, *shape[1:]), lambda p, _, b: (p * each_part + b, 0, 0, 0)
        )

    in_specs = [images(x.shape), *weight_specs(weights), images(gradient.shape)]
    operands = [x, *weights, gradient]
    if bounds is not None:
        in_specs.insert(0, pl.BlockSpec(memory_space=pltpu.SMEM))
        operands.insert(0, bounds)
    dtype = x.dtype if blocks == 1 else jnp.float32
    out_shape = [jax.ShapeDtypeStruct((blocks, *x.shape), dtype)]
    out_specs = [
        pl.BlockSpec(
            (1, layout.images, *x.shape[1:]), lambda p, g, b: (g, p * each_part + b, 0, 0, 0)
        )
    ]
    for weight in weights:
        out_shape.append(jax.ShapeDtypeStruct((parts, *weight.shape), jnp.float32))
        zeros = [0] * (weight.ndim - 1)
        out_specs.append(
            pl.BlockSpec((1, 1, *weight.shape[1:]), lambda p, g, _, zeros=zeros: (p, g, *zeros))
        )
    dx, *dweights = call(
        functools.partial(_kernel, layout),
        name=f"{layout.name}_gradient",
        grid=(parts, blocks, each_part),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=_scratch(layout),
        vmem_bytes=layout.vmem_bytes,
    )(*operands)
    total = dx[0] if blocks == 1 else jnp.sum(dx, axis=0).astype(x.dtype)
    return total, Weights(*(jnp.sum(part, axis=0) for part in dweights))


def _scratch(layout: Layout) -> list[Any]:
    """Frames of the expansion, between the convolutions and behind them; sums."""
    columns = layout.width + 2 * PAD
    frames = (
        (MEMBERS, layout.input_rows + 2 * layout.edge),
        (MEMBERS, layout.input_rows + 4),
        (1, layout.middle_rows + 4),
    )
    scratch = [pltpu.VMEM((*frame, columns, LANES), jnp.float32) for frame in frames]
    scratch.append(pltpu.VMEM((MEMBERS, TAPS, SUBLANES, LANES), jnp.float32))
    if len(layout.kinds) > 1:
        image = (layout.images, layout.input_rows, layout.width, layout.inputs)
        scratch.append(pltpu.VMEM(image, jnp.float32))
    return scratch


def _kernel(layout: Layout, *refs: Any) -> None:
    bounds, first = None, pl.program_id(2) == 0
    if layout.has_halo:
        image = pl.program_id(0) * pl.num_programs(2) + pl.program_id(2)
        bounds = refs[0][image, 0], refs[0][image, 1]
        refs = refs[1:]
    x, *weights, dy = refs[:6]
    dx, *weight_gradients = refs[6:11]
    expanded, middle, behind, sums, *total = refs[11:]
    w, dw = Weights(*weights), Weights(*weight_gradients)
    # Rows of zeros around: the gradient's convolutions reach beyond rows that have a halo.
    edge, halo = layout.edge, 2 * REACH if layout.has_halo else REACH

    @pl.when(first & (pl.program_id(1) == 0))
    def _() -> None:
        for ref, rows in ((expanded, edge), (middle, halo), (behind, halo)):
            frame(ref, rows)

    @pl.when(first)
    def _() -> None:
        for ref in weight_gradients:
            ref[...] = jnp.zeros_like(ref)

    for kind in range(len(layout.kinds)):
        expand(layout, kind, x, w.expand, expanded)
        convolve_first(layout, kind, expanded, w.first, middle, halo, bounds)
        _project_back(layout, kind, dy, w.project, behind, halo)
        _second(layout, kind, middle, w.second, dy, behind, halo, dw.project)
        _convolve_back(layout, kind, 1, (behind, middle, halo), w.second, sums, dw.second)
        _convolve_back(layout, kind, 0, (middle, expanded, edge), w.first, sums, dw.first)
        _expand_back(layout, kind, x, expanded, w.expand, dw.expand, dx, total)


def _project_back(
    layout: Layout, kind: int, dy: Any, weights: Any, behind: Any, offset: int
) -> None:
    """The gradient behind the second ReLU."""

    def at(row: Any, rows: int) -> None:
        y = added(
            product_transposed(flat(dy[i, pl.ds(row, rows)]), weights[0, kind, i], layout.precision)
            for i in range(layout.images)
        ).reshape(rows, layout.width, LANES)
        behind[0, pl.ds(row + offset, rows), pl.ds(PAD, layout.width), :] = y

    each_product(layout.rows, layout.width, at)


def _second(
    layout: Layout,
    kind: int,
    middle: Any,
    weights: Any,
    dy: Any,
    behind: Any,
    offset: int,
    dproject: Any,
) -> None:
    """The gradient in front of the second ReLU, in place; and that of the projection."""
    # Where rows have a halo, that is where they begin; else the window begins before them.
    top = offset if layout.has_halo else 0

    def at(place: Place) -> None:
        row, rows, column, columns = place
        y = convolve_second(layout, kind, middle, weights, (row + top, rows, column, columns))
        where = (0, *pixels(behind, place, offset), slice(None))
        behind[where] = jnp.where(y > 0, behind[where], 0)
        hidden = flat(jnp.maximum(y, 0).astype(dy.dtype))
        for i in range(layout.images):
            gradient = flat(dy[i, pl.ds(row, rows), pl.ds(column, columns)])
            part = product_over_pixels(hidden, gradient, layout.precision)
            dproject[0, 0, kind, i] = dproject[0, 0, kind, i] + part

    each_place(layout.rows, layout.width, at)


def _convolve_back(
    layout: Layout,
    kind: int,
    which: int,
    frames: tuple[Any, Any, int],
    weights: Any,
    sums: Any,
    dweights: Any,
) -> None:
    """The gradients of a convolution, that of its input in the input's place.

    Args:
      which: 0, of the first; 1, of the second, whose input is behind a ReLU.
      frames: gradient of the result, row 0 the window's first; input; offset of its row 0.
    """
    gradient, inputs, offset = frames
    size = layout.kinds[kind][which]
    sums[...] = jnp.zeros_like(sums)

    def at(place: Place) -> None:
        for member in range(MEMBERS):
            of = 0 if which else member
            where = (member, *pixels(inputs, place, offset), slice(None))
            own, parts = inputs[where], []
            for i, j in window(size):
                shifted = gradient[
                    of, *pixels(gradient, place, SIZE - 1 - i, REACH - j), slice(None)
                ]
                parts.append(shifted * tap(weights, kind, member, SIZE * i + j))
                _add(sums, member, SIZE * i + j, shifted * own)
                if layout.has_biases and i == j == REACH:
                    _add(sums, member, TAPS - 1, shifted)
            inputs[where] = jnp.where(own > 0, added(parts), 0) if which else added(parts)

    rows = layout.middle_rows if which else layout.input_rows
    # Half as many: there are products to be summed, too.
    each_place(rows, layout.width, at, PIXELS_AT_A_TIME // 2)
    dweights[0, 0, kind] = dweights[0, 0, kind] + jnp.sum(sums[...], axis=2)


def _add(sums: Any, member: int, index: int, y: jax.Array) -> None:
    """Adds an image to the sum over pixels, which stays apart by sublanes."""
    part = jnp.sum(y.reshape(-1, SUBLANES, LANES), axis=0)
    sums[member, index] = sums[member, index] + part


def _expand_back(
    layout: Layout,
    kind: int,
    x: Any,
    expanded: Any,
    weights: Any,
    dexpand: Any,
    dx: Any,
    totals: list[Any],
) -> None:
    """The gradients of the 1x1 convolution, added to what other kinds and blocks gave."""
    shape = (-1, layout.width, layout.inputs)

    def at(row: Any, rows: int) -> None:
        where = pl.ds(row + layout.edge, rows), pl.ds(PAD, layout.width), slice(None)
        gradients = [flat(expanded[member, *where]).astype(x.dtype) for member in range(MEMBERS)]
        for i in range(layout.images):
            inputs, pixels_of = flat(x[i, pl.ds(row, rows)]), (i, pl.ds(row, rows))
            for member, gradient in enumerate(gradients):
                part = product_over_pixels(inputs, gradient, layout.precision)
                dexpand[0, 0, kind, member, i] = dexpand[0, 0, kind, member, i] + part
            y = added(
                product_transposed(gradient, weights[0, kind, member, i], layout.precision)
                for member, gradient in enumerate(gradients)
            ).reshape(shape)
            if kind > 0:
                y = y + totals[0][pixels_of]
            if kind < len(layout.kinds) - 1:
                totals[0][pixels_of] = y
            else:
                dx[0, *pixels_of] = y.astype(dx.dtype)

    each_product(layout.input_rows, layout.width, at)
