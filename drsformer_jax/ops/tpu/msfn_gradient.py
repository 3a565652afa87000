"""The gradient of MSFN's kernel: the hidden channels are computed again and stay in fast memory.

Each shifted gradient that is loaded serves both the gradient of the input and that of the kernel.
The grid goes over parts of the batch, images and blocks: gradients of the image are summed in fast
memory over its blocks, and those of the weights over the images of a part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.tpu import msfn_inputs
from drsformer_jax.ops.tpu.attended import Attended
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
from drsformer_jax.ops.tpu.msfn_inputs import normalise, normalise_back
from drsformer_jax.ops.tpu.msfn_layout import BIAS, EXPANSION_BIAS, REACH, SIZE, TAPS, Layout
from drsformer_jax.ops.tpu.msfn_passes import (
    MEMBERS,
    Place,
    clear_expanded,
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
from drsformer_jax.ops.tpu.msfn_weights import Weights, weight_specs


def gradient_call(
    layout: Layout,
    bounds: jax.Array | None,
    x: jax.Array,
    attended: Attended | None,
    weights: Weights,
    gradient: jax.Array,
) -> tuple[jax.Array, Attended | None, Weights]:
    """Gradients of the image and of values, in their dtype; of all else, float32.

    Args:
      bounds: as for the kernel itself.
      x: images input_rows width channels.
      attended: what is added to it.
      gradient: of the result, images rows width channels.
    """
    batch = x.shape[0] // layout.images
    parts = math.gcd(batch, layout.cores)
    each_part = batch // parts

    def which(p: Any, b: Any, _: Any) -> Any:
        return p * each_part + b

    def images(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec((layout.images, *shape[1:]), lambda *at: (which(*at), 0, 0, 0))

    in_specs = [
        *msfn_inputs.specs(layout, which),
        *weight_specs(weights, lambda _, __, block: block),
        images(gradient.shape),
    ]
    operands = [*msfn_inputs.operands(x, attended), *weights, gradient]
    out_specs, out_shape = [images(x.shape)], [jax.ShapeDtypeStruct(x.shape, x.dtype)]
    if attended is not None:
        values, matrices = attended.values, attended.matrices
        out_specs += [pl.BlockSpec(memory_space=pl.ANY), msfn_inputs.matrices_spec(layout, which)]
        out_shape += [
            jax.ShapeDtypeStruct(values.shape, values.dtype),
            jax.ShapeDtypeStruct(matrices.shape, jnp.float32),
        ]
    if bounds is not None:
        in_specs.insert(0, pl.BlockSpec(memory_space=pltpu.SMEM))
        operands.insert(0, bounds)
    dx, *rest = call(
        functools.partial(_kernel, layout),
        name=f"{layout.name}_gradient",
        grid=(parts, each_part, layout.blocks),
        in_specs=in_specs,
        out_specs=[*out_specs, *map(_of_a_part, weights)],
        out_shape=[
            *out_shape,
            *(jax.ShapeDtypeStruct((parts, *weight.shape), jnp.float32) for weight in weights),
        ],
        scratch_shapes=_scratch(layout, x.dtype),
        vmem_bytes=layout.vmem_bytes,
    )(*operands)
    dweights = Weights(*(jnp.sum(part, axis=0) for part in rest[-len(weights) :]))
    if attended is None:
        return dx, None, dweights
    dvalues, dmatrices = rest[:2]
    # All pixels have the same bias.
    dbias = jnp.sum(dx.astype(jnp.float32), axis=(0, 1, 2))[None]
    return dx, Attended(dvalues, dmatrices, dbias), dweights


def _of_a_part(weight: jax.Array) -> pl.BlockSpec:
    """Gradients of weights stay in fast memory, those of all blocks, over a part of the batch."""
    zeros = [0] * weight.ndim
    return pl.BlockSpec((1, *weight.shape), lambda p, *_: (p, *zeros), pipeline_mode=pl.Buffered(1))


def _scratch(layout: Layout, dtype: jnp.dtype) -> list[Any]:
    """Frames of the expansion, between the convolutions and behind them; sums; streams."""
    columns = layout.width + 2 * PAD
    frames = (
        (MEMBERS, layout.input_rows + 2 * layout.edge),
        (MEMBERS, layout.input_rows + 4),
        (1, layout.middle_rows + 4),
    )
    stream = msfn_inputs.stream_scratch(layout, dtype)
    return [
        *(pltpu.VMEM((*frame, columns, LANES), jnp.float32) for frame in frames),
        pltpu.VMEM((MEMBERS, TAPS, SUBLANES, LANES), jnp.float32),
        pltpu.VMEM((layout.norm.rows, SUBLANES, layout.channels), jnp.float32),
        pltpu.VMEM((layout.images, layout.input_rows, layout.width, layout.channels), jnp.float32),
        *stream,
        *stream,
    ]


def _kernel(layout: Layout, *arrays: Any) -> None:
    refs: Sequence[Any] = arrays
    image, block = pl.program_id(1), pl.program_id(2)
    number = pl.program_id(0) * pl.num_programs(1) + image
    bounds = None
    if layout.has_halo:
        bounds = refs[0][number, 0], refs[0][number, 1]
        refs = refs[1:]
    inputs, refs = msfn_inputs.split(layout, number, refs)
    *weights, dy, dx = refs[:7]
    refs, gradients = msfn_inputs.split_gradients(layout, refs[7:])
    *weight_gradients, expanded, middle, behind, sums, norm_sums, total = refs
    w, (dnorm, *of_blocks) = Weights(*weights), weight_gradients
    dw: Any = Weights(dnorm.at[0], *(ref.at[0, block] for ref in of_blocks))
    # Until the gradient of the image is known, its place holds LayerNorm's result.
    normalised = dx
    # Rows of zeros around: the gradient's convolutions reach beyond rows that have a halo.
    edge, halo = layout.edge, 2 * REACH if layout.has_halo else REACH

    @pl.when((image == 0) & (block == 0))
    def _() -> None:
        for ref, rows in ((expanded, edge), (middle, halo), (behind, halo)):
            frame(ref, rows)
        dw.norm[...] = jnp.zeros_like(dw.norm)

    @pl.when(image == 0)
    def _() -> None:
        for ref in dw[1:]:
            ref[...] = jnp.zeros_like(ref)

    @pl.when(block == 0)
    def _() -> None:
        normalise(inputs, w.norm, normalised)

    for kind in range(len(layout.kinds)):
        expand(layout, kind, normalised, w, expanded, bounds)
        convolve_first(layout, kind, expanded, w.first, middle, halo, bounds)
        _project_back(layout, kind, dy, w.project, behind, halo)
        _second(layout, kind, middle, w.second, dy, behind, halo, dw.project)
        _convolve_back(layout, kind, 1, (behind, middle, halo), w.second, sums, dw.second)
        _convolve_back(layout, kind, 0, (middle, expanded, edge), w.first, sums, dw.first)
        clear_expanded(layout, expanded, bounds)
        _expand_back(layout, kind, normalised, expanded, w.expand, dw, total)

    @pl.when(block == layout.blocks - 1)
    def _() -> None:
        normalise_back(inputs, w.norm, total, dy, dx, norm_sums, gradients)
        dw.norm[...] = dw.norm[...] + jnp.sum(norm_sums[...], axis=1)


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
            dproject[kind, i] = dproject[kind, i] + part

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
            own = inputs[where]

            def product(i: int, j: int, member: int = member, of: int = of, own: Any = own) -> Any:
                """One shifted gradient, of which nothing is kept."""
                shifted = gradient[
                    of, *pixels(gradient, place, SIZE - 1 - i, REACH - j), slice(None)
                ]
                _add(sums, member, SIZE * i + j, shifted * own)
                if layout.has_biases and i == j == REACH:
                    _add(sums, member, BIAS, shifted)
                return shifted * tap(weights, kind, member, SIZE * i + j)

            # One after the other: a list of them all would take more registers than there are.
            y = added(product(i, j) for i, j in window(size))
            inputs[where] = jnp.where(own > 0, y, 0) if which else y

    rows = layout.middle_rows if which else layout.input_rows
    # Half as many: there are products to be summed, too.
    each_place(rows, layout.width, at, PIXELS_AT_A_TIME // 2)
    dweights[kind] = dweights[kind] + jnp.sum(sums[...], axis=2)


def _add(sums: Any, member: int, index: int, y: jax.Array) -> None:
    """Adds an image to the sum over pixels, which stays apart by sublanes."""
    part = jnp.sum(y.reshape(-1, SUBLANES, LANES), axis=0)
    sums[member, index] = sums[member, index] + part


def _expand_back(
    layout: Layout,
    kind: int,
    normalised: Any,
    expanded: Any,
    weights: Any,
    dweights: Any,
    total: Any,
) -> None:
    """The gradients of the 1x1 convolution, added to what other kinds and blocks gave."""
    shape, block = (-1, layout.width, layout.channels), pl.program_id(2)
    dexpand, dfirst = dweights.expand, dweights.first

    def at(row: Any, rows: int) -> None:
        where = pl.ds(row + layout.edge, rows), pl.ds(PAD, layout.width), slice(None)
        wide = [flat(expanded[member, *where]) for member in range(MEMBERS)]
        gradients = [gradient.astype(normalised.dtype) for gradient in wide]
        if layout.has_biases:
            for member, gradient in enumerate(wide):
                bias = kind, member, pl.ds(EXPANSION_BIAS, 1)
                dfirst[bias] = dfirst[bias] + jnp.sum(gradient, axis=0, keepdims=True)
        for i in range(layout.images):
            inputs, pixels_of = flat(normalised[i, pl.ds(row, rows)]), (i, pl.ds(row, rows))
            for member, gradient in enumerate(gradients):
                part = product_over_pixels(inputs, gradient, layout.precision)
                dexpand[kind, member, i] = dexpand[kind, member, i] + part
            y = added(
                product_transposed(gradient, weights[0, kind, member, i], layout.precision)
                for member, gradient in enumerate(gradients)
            ).reshape(shape)
            if kind > 0:
                y = y + total[pixels_of]
            elif layout.blocks > 1:
                y = y + jnp.where(block > 0, total[pixels_of], 0)
            total[pixels_of] = y

    each_product(layout.input_rows, layout.width, at)
