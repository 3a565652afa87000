"""The gradient of MSFN's kernel: the hidden channels are computed again and stay in fast memory.

Each shifted gradient that is loaded serves both the gradient of the input and that of the kernel.
Gradients of the weights leave the kernel for each image and block, and are summed outside.
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
from drsformer_jax.ops.tpu.lanes import (
    PAD,
    PIXELS_AT_A_TIME,
    SUBLANES,
    call,
    product_over_pixels,
    product_transposed,
)
from drsformer_jax.ops.tpu.msfn_layout import REACH, SIZE, TAPS, Layout, Weights, weight_specs
from drsformer_jax.ops.tpu.msfn_passes import (
    MEMBERS,
    Place,
    accumulate,
    clear_frames,
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
    batch = x.shape[0] // layout.images
    blocks, kinds, images = layout.blocks, len(layout.kinds), layout.images
    image = pl.BlockSpec((images, *x.shape[1:]), lambda b, g: (b, 0, 0, 0))
    result = pl.BlockSpec((images, *gradient.shape[1:]), lambda b, g: (b, 0, 0, 0))
    in_specs, operands = [image, *weight_specs(weights), result], [x, *weights, gradient]
    if bounds is not None:
        in_specs.insert(0, pl.BlockSpec(memory_space=pltpu.SMEM))
        operands.insert(0, bounds)

    shapes = [(batch, *weight.shape) for weight in weights]
    out_shape = [jax.ShapeDtypeStruct(x.shape, x.dtype)]
    out_shape += [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    out_specs = [image]
    out_specs += [
        pl.BlockSpec((1, 1, *shape[2:]), lambda b, g, n=len(shape) - 2: (b, g, *[0] * n))
        for shape in shapes
    ]
    columns = layout.width + 2 * PAD
    frame_rows = layout.middle_rows + 4
    scratch = [
        pltpu.VMEM((MEMBERS, layout.input_rows + 2 * layout.edge, columns, LANES), jnp.float32),
        pltpu.VMEM((MEMBERS, layout.input_rows + 4, columns, LANES), jnp.float32),
        pltpu.VMEM((1, frame_rows, columns, LANES), jnp.float32),
        pltpu.VMEM((MEMBERS, TAPS, SUBLANES, LANES), jnp.float32),
    ]
    if blocks * kinds > 1:
        scratch.append(pltpu.VMEM((images, *x.shape[1:]), jnp.float32))
    found = call(
        functools.partial(_kernel, layout),
        name=f"{layout.name}_gradient",
        grid=(batch, blocks),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=scratch,
        vmem_bytes=layout.vmem_bytes,
    )(*operands)
    return found[0], Weights(*(jnp.sum(part, axis=0) for part in found[1:]))


def _kernel(layout: Layout, *refs: Any) -> None:
    bounds = None
    if layout.has_halo:
        image = pl.program_id(0)
        bounds = refs[0][image, 0], refs[0][image, 1]
        refs = refs[1:]
    x, *weights, dy = refs[:6]
    dx, *weight_gradients = refs[6:11]
    expanded, middle, behind, sums, *total = refs[11:]
    w, dw = Weights(*weights), Weights(*weight_gradients)
    # Rows of zeros around: the gradient's convolutions reach beyond rows that have a halo.
    edge, halo = layout.edge, 2 * REACH if layout.has_halo else REACH
    clear_frames(layout, (expanded, edge), (middle, halo), (behind, halo))
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
        total = None
        for i in range(layout.images):
            gradient = flat(dy[i, pl.ds(row, rows)])
            y = product_transposed(gradient, weights[0, kind, i], layout.precision)
            total = y if total is None else total + y
        y = total.reshape(rows, layout.width, LANES)
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
    for i in range(layout.images):
        dproject[0, 0, kind, i] = jnp.zeros_like(dproject[0, 0, kind, i])
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
            own, total = inputs[where], None
            for i, j in window(size):
                shifted = gradient[
                    of, *pixels(gradient, place, SIZE - 1 - i, REACH - j), slice(None)
                ]
                y = shifted * tap(weights, kind, member, SIZE * i + j)
                total = y if total is None else total + y
                _add(sums, member, SIZE * i + j, shifted * own)
                if layout.has_biases and i == j == REACH:
                    _add(sums, member, TAPS - 1, shifted)
            inputs[where] = jnp.where(own > 0, total, 0) if which else total

    rows = layout.middle_rows if which else layout.input_rows
    # Half as many: there are products to be summed, too.
    each_place(rows, layout.width, at, PIXELS_AT_A_TIME // 2)
    dweights[0, 0, kind] = jnp.sum(sums[...], axis=2)


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
    dexpand[0, 0, kind] = jnp.zeros_like(dexpand[0, 0, kind])
    shape, left = (-1, layout.width, layout.inputs), range(kind, len(layout.kinds))

    def at(row: Any, rows: int) -> None:
        where = pl.ds(row + layout.edge, rows), pl.ds(PAD, layout.width), slice(None)
        gradients = [flat(expanded[member, *where]).astype(x.dtype) for member in range(MEMBERS)]
        for i in range(layout.images):
            inputs, total = flat(x[i, pl.ds(row, rows)]), None
            for member, gradient in enumerate(gradients):
                y = product_transposed(gradient, weights[0, kind, member, i], layout.precision)
                total = y if total is None else total + y
                part = product_over_pixels(inputs, gradient, layout.precision)
                dexpand[0, 0, kind, member, i] = dexpand[0, 0, kind, member, i] + part
            accumulate(totals, dx, (i, pl.ds(row, rows)), total.reshape(shape), left)

    each_product(layout.input_rows, layout.width, at)
