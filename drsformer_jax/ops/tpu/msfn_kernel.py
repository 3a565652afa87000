"""The mixed-scale feed-forward network (MSFN) as one Pallas kernel for TPU.

LayerNorm in front and the residual are in it, and what attention adds before them. The hidden
channels never leave fast memory: for each block of 128 outputs of the second convolutions

    LN(x) -> 1x1 (matrix unit) -> taps, ReLU -> taps of both members, ReLU -> 1x1 (matrix unit),

summed over the blocks, and to x. How channels, paths and strips of rows lie in them is
`msfn_layout`, and `msfn_weights` for the weights; the gradient is `msfn_gradient`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import RowShards
from drsformer_jax.ops.tpu import msfn_inputs
from drsformer_jax.ops.tpu.attended import Attended
from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.feed_forward import HALO
from drsformer_jax.ops.tpu.lanes import (
    MIB,
    PAD,
    SUBLANES,
    added,
    call,
    frame,
    product,
    products,
    vmem_bytes,
)
from drsformer_jax.ops.tpu.layer_norm import LayerNorm
from drsformer_jax.ops.tpu.msfn_gradient import gradient_call
from drsformer_jax.ops.tpu.msfn_inputs import normalise
from drsformer_jax.ops.tpu.msfn_layout import (
    REACH,
    Layout,
    best_layout,
)
from drsformer_jax.ops.tpu.msfn_passes import (
    MEMBERS,
    Place,
    convolve_first,
    convolve_second,
    each_place,
    each_product,
    expand,
    flat,
)
from drsformer_jax.ops.tpu.msfn_weights import Weights, packed, weight_specs
from drsformer_jax.ops.tpu.packing import cut_into_strips, rows_of_strips


def feed_forward_by_kernel(
    image: Image,
    params: Mapping[str, Any],
    epsilon: float,
    attended: Attended | None = None,
    weights: Weights | None = None,
) -> Image:
    """x + MSFN(LN(x)).

    Args:
      image: B C H W, one that `why_not` has nothing against.
      params: "norm2" of `models.layers.LayerNorm`, "ffn" of `models.feed_forward`.
      epsilon: of LayerNorm.
      attended: to be added to the image before all; of whole images.
      weights: the `packed` ones, where they are there already; of what is in them, params needs
        shapes alone.

    Returns:
      B C H W.

    Raises:
      ValueError: the kernel cannot compute it, see `why_not`.
    """
    values = 0 if attended is None else attended.values.shape[-1]
    layout = layout_for(image, params, epsilon, values)
    if isinstance(layout, str):
        raise ValueError(layout)
    height = image.array.shape[2]
    x, bounds = cut(layout, jnp.moveaxis(image.array, 1, -1), image.how.rows)
    strips = -(-height // layout.rows)
    y = msfn(layout, x, attended, bounds, packed(params, layout) if weights is None else weights)
    y = jnp.moveaxis(y.reshape(strips, -1, *y.shape[1:]), 0, 1)
    y = y.reshape(y.shape[0], strips * layout.rows, *y.shape[3:])[:, :height]
    bias = params["ffn"]["project_out"].get("bias")
    if bias is not None:
        y = y + bias.astype(y.dtype)
    return Image(jnp.moveaxis(y, -1, 1), image.how)


def why_not(image: Image, params: Mapping[str, Any], epsilon: float, values: int = 0) -> str | None:
    """Why the kernel cannot compute this, in words; None where it can."""
    layout = layout_for(image, params, epsilon, values)
    return layout if isinstance(layout, str) else None


def layout_for(
    image: Image, params: Mapping[str, Any], epsilon: float, values: int = 0
) -> Layout | str:
    """How the kernel computes this, or why it cannot.

    values: lanes of what attention adds to the image; 0 where it adds nothing.
    """
    batch, channels, height, width = image.array.shape
    dtype, memory = image.array.dtype, vmem_bytes(image.how)
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"{dtype.name} activations"
    if width % SUBLANES:
        return f"{width} columns, which are no multiple of {SUBLANES}"
    if values and image.how.rows is not None:
        return "rows over devices: the neighbours' values would be sent, too"
    layout = best_layout(
        params["ffn"],
        (batch, height, width, channels),
        LayerNorm.of(params["norm2"], epsilon),
        values=values,
        has_halo=image.how.rows is not None,
        itemsize=dtype.itemsize,
        precision=products(image.how),
        vmem_bytes=memory,
    )
    if layout is None:
        what = "a whole image" if values else f"{width} columns"
        return f"{what} of {channels} channels: too much for {memory // MIB} MiB of VMEM"
    return layout


def cut(
    layout: Layout, x: jax.Array, split: RowShards | None
) -> tuple[jax.Array, jax.Array | None]:
    """B H W C -> images of the kernel, strip by strip; and where in each of them the image lies.

    Args:
      split: how rows are split over devices; then x is a band of them, and strips divide it.

    Returns:
      strips*B rows W C, with a halo where the layout has one; and int32 strips*B/images 2, the
      first row within the image, and the first one behind it, both in the rows between the two
      convolutions. None where no row is outside.
    """
    if not layout.has_halo:
        return x, None
    row, total = rows_of_strips(x.shape[1], layout.rows, REACH, split)
    first = -row[:, 0]
    bounds = jnp.stack([first, first + total], axis=1)
    bounds = jnp.repeat(bounds, x.shape[0] // layout.images, axis=0)
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % layout.rows), (0, 0), (0, 0)))
    strips = jnp.moveaxis(cut_into_strips(x, layout.rows, HALO, split), 1, 0)
    return strips.reshape(-1, *strips.shape[2:]), bounds


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def msfn(
    layout: Layout,
    x: jax.Array,
    attended: Attended | None,
    bounds: jax.Array | None,
    weights: Weights,
) -> jax.Array:
    """x + MSFN(LN(x)), without the bias of the projection.

    Args:
      x: images input_rows width channels.
      attended: to be added to x before all, where the layout has values; images as those of x.
      bounds: for a layout with a halo, see `cut`.

    Returns:
      images rows width channels, in the dtype of x.
    """
    weights = _cast(weights, x.dtype)
    shape = (layout.rows, layout.width, layout.channels)
    in_specs = [
        *msfn_inputs.specs(layout, lambda b, g: b),
        *weight_specs(weights, lambda _, g: g),
    ]
    operands = [*msfn_inputs.operands(x, attended), *weights]
    if bounds is not None:
        in_specs.insert(0, pl.BlockSpec(memory_space=pltpu.SMEM))
        operands.insert(0, bounds)
    columns = layout.width + 2 * PAD
    normalised = pltpu.VMEM((layout.images, *x.shape[1:]), x.dtype)
    frames = [
        pltpu.VMEM((MEMBERS, rows + 2 * layout.edge, columns, LANES), jnp.float32)
        for rows in (layout.input_rows, layout.middle_rows)
    ]
    hidden = pltpu.VMEM((len(layout.kinds), layout.rows, layout.width, LANES), x.dtype)
    totals = [pltpu.VMEM((layout.images, *shape), jnp.float32)] if layout.blocks > 1 else []
    stream = msfn_inputs.stream_scratch(layout, x.dtype)
    y: jax.Array = call(
        functools.partial(_kernel, layout),
        name=layout.name,
        grid=(x.shape[0] // layout.images, layout.blocks),
        in_specs=in_specs,
        out_specs=pl.BlockSpec((layout.images, *shape), lambda b, g: (b, 0, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], *shape), x.dtype),
        scratch_shapes=[normalised, *frames, hidden, *totals, *stream],
        vmem_bytes=layout.vmem_bytes,
        # In a loop over blocks the image is there until now, and would be copied in the end.
        in_place=attended is not None,
    )(*operands)
    return y


def _forward(
    layout: Layout,
    x: jax.Array,
    attended: Attended | None,
    bounds: jax.Array | None,
    weights: Weights,
) -> tuple[jax.Array, Any]:
    return msfn(layout, x, attended, bounds, weights), (x, attended, bounds, weights)


def _backward(
    layout: Layout, saved: Any, gradient: jax.Array
) -> tuple[jax.Array, Attended | None, None, Weights]:
    x, attended, bounds, weights = saved
    weights = _cast(weights, x.dtype)
    dx, dattended, dweights = gradient_call(layout, bounds, x, attended, weights, gradient)
    return dx, dattended, None, dweights


msfn.defvjp(_forward, _backward)


def _cast(weights: Weights, dtype: jnp.dtype) -> Weights:
    """The factors of products in the dtype of the activations; the others stay float32."""
    return weights._replace(
        expand=weights.expand.astype(dtype), project=weights.project.astype(dtype)
    )


def _kernel(layout: Layout, *arrays: Any) -> None:
    refs: Sequence[Any] = arrays
    is_first_block = pl.program_id(1) == 0
    bounds = None
    if layout.has_halo:
        image = pl.program_id(0)
        bounds = refs[0][image, 0], refs[0][image, 1]
        refs = refs[1:]
    inputs, refs = msfn_inputs.split(layout, pl.program_id(0), refs)
    *weights, out, normalised, expanded, middle, hidden = refs[:10]
    totals, w = refs[10:], Weights(*weights)
    # What is added at the end: in the result's place where nothing else is summed.
    kept = totals[0] if totals else out
    kinds = range(len(layout.kinds))

    @pl.when(is_first_block)
    def _() -> None:
        for ref in (expanded, middle):
            frame(ref, layout.edge)
        normalise(inputs, w.norm, normalised, kept)

    for kind in kinds:
        expand(layout, kind, normalised, w, expanded, bounds)
        convolve_first(layout, kind, expanded, w.first, middle, layout.edge, bounds)

        def second(place: Place, kind: int = kind) -> None:
            row, rows, column, columns = place
            y = convolve_second(layout, kind, middle, w.second, place)
            where = kind, pl.ds(row, rows), pl.ds(column, columns)
            hidden[where] = jnp.maximum(y, 0).astype(hidden.dtype)

        each_place(layout.rows, layout.width, second)

    def project(row: Any, rows: int) -> None:
        for i in range(layout.images):
            y = added(
                product(
                    flat(hidden[kind, pl.ds(row, rows)]), w.project[0, kind, i], layout.precision
                )
                for kind in kinds
            ).reshape(rows, layout.width, layout.channels)
            where = i, pl.ds(row, rows)
            y = y + kept[where].astype(jnp.float32)
            for sums in totals:
                sums[where] = y
            out[where] = y.astype(out.dtype)

    each_product(layout.rows, layout.width, project)
