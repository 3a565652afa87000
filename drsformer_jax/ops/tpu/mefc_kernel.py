"""The steps of the mixture of experts (MEFC) as Pallas kernels for TPU's vector unit.

A step has 249 multiply-adds of shifted images a channel, and a dozen products. The image stays in
VMEM for all of them; one that is too large goes in strips of rows, each with the rows above and
below that the step looks at, and so does the band of a device (`ops.rows`). Two images of up to 64
channels share the 128 lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import positions
from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.mefc_forward import (
    DILATED,
    HALO,
    INNER,
    OUTER,
    SEPARABLE,
    TAP_ROWS,
    TAPS,
    Borders,
    Plan,
    Weights,
    step,
)
from drsformer_jax.ops.tpu.mefc_gradient import step_gradient
from drsformer_jax.ops.tpu.packing import (
    cut_into_strips,
    images_in_lanes,
    into_lanes,
    matrices_in_lanes,
    out_of_lanes,
    vector_in_lanes,
)
from drsformer_jax.ops.tpu.tiles import PAD, SUBLANES, Tiles


def mixture_by_kernel(image: Image, weights: jax.Array, stacked: Mapping[str, Any]) -> Image:
    """All steps, one after the other in a loop: `ops.tpu.mefc.mixture_by_blocks` by kernels.

    Args:
      image: B C H W, the first state, not negative; one that `why_not` has nothing against.
      weights: B steps experts.
      stacked: parameters of `models.mefc.MixtureStep`, of each step on the leading axis.

    Returns:
      B C H W, the last state.
    """
    how, (batch, channels, height, _) = image.how, image.array.shape
    plan = plan_of(image)
    assert plan is not None
    images = images_in_lanes(batch, channels)
    borders = _borders(plan, how, height)

    def one(state: jax.Array, inputs: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
        packed = packed_weights(*inputs, images, how)
        strips = cut_into_strips(state, plan.tiles.height, plan.halo, how.rows)
        return mixture_step(plan, strips, packed, borders).reshape(state.shape), None

    state = into_lanes(jnp.moveaxis(image.array, 1, -1), images)
    state, _ = lax.scan(one, state, (stacked, jnp.swapaxes(weights, 0, 1)))
    state = out_of_lanes(state, images, batch, channels)
    return Image(jnp.moveaxis(state, -1, 1), how)


def why_not(image: Image, *_: Any) -> str | None:
    """Why the kernels cannot compute this, or None."""
    dtype, channels, width = image.array.dtype, image.channels, image.array.shape[3]
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"{dtype} images"
    if channels > LANES:
        return f"{channels} channels, more than {LANES}"
    if width % SUBLANES:
        return f"{width} columns, no multiple of {SUBLANES}"
    if plan_of(image) is None:
        return f"the fast memory of a core holds no strip of {width} columns"
    return None


def plan_of(image: Image) -> Plan | None:
    """The largest strips that VMEM holds; None where it holds none."""
    how, (height, width) = image.how, image.array.shape[2:]
    vmem = 100 * 2**20
    for strip in sorted((n for n in range(1, height + 1) if height % n == 0), reverse=True):
        halo = 0 if strip == height and how.rows is None else HALO
        if halo > strip:
            break
        precision = None if how.products is None else lax.Precision.HIGHEST
        plan = Plan(Tiles.of(strip, width, HALO, halo), halo, precision, vmem)
        if _bytes_of(plan, image.array.dtype.itemsize) <= vmem:
            return plan
    return None


def _bytes_of(plan: Plan, itemsize: int) -> int:
    """VMEM that the gradient takes, which is more than the step itself."""
    height, width = plan.tiles.height, plan.tiles.width
    frames = 4 * (height + 2 * plan.tiles.above) * (width + 2 * PAD) * 4
    strips = (2 * (height + 2 * plan.halo) + 4 * height + 2 * plan.tiles.above) * width * itemsize
    weights = 5 * (INNER + OUTER) * LANES * 4 + 11 * TAP_ROWS * 4
    borders = 4 * (height + plan.tiles.above) * SUBLANES * 4 + 2 * width * 4
    return (frames + strips + weights + borders) * LANES


def _borders(plan: Plan, how: Execution, height: int) -> Borders:
    """height: of the image, or a device's band of it."""
    strip, width = plan.tiles.height, plan.tiles.width
    total = height if how.rows is None else how.rows.level_height(height)
    first = 0 if how.rows is None else positions(how.rows, height)[0]
    start = first + jnp.arange(0, height, strip)[:, None]
    row = start + jnp.arange(-plan.tiles.above, strip + plan.tiles.above)
    inside = ((row >= 0) & (row < total)).astype(jnp.float32)

    def count(position: jax.Array, size: int) -> jax.Array:
        """One by how many of three neighbouring positions lie inside."""
        number = 1 + (position > 0).astype(jnp.float32) + (position < size - 1)
        return jnp.broadcast_to((1 / number)[..., None], (*position.shape, LANES))

    return Borders(
        jnp.broadcast_to(inside[:, :, None, None], (*inside.shape, 1, LANES)),
        count(start + jnp.arange(strip), total)[:, :, None],
        count(jnp.arange(width), width),
    )


def packed_weights(
    params: Mapping[str, Any], gates: jax.Array, images: int, how: Execution
) -> Weights:
    """A step's parameters in lanes.

    Args:
      params: of `models.mefc.MixtureStep`.
      gates: B experts.
      images: that share the lanes.
    """
    experts = [
        {name: layer["kernel"] for name, layer in params[f"expert{i}"].items()}
        for i in range(INNER + len(DILATED))
    ]
    taps: list[jax.Array] = []
    inner, last = [], []
    for i, expert in enumerate(experts):
        behind = expert["pointwise1" if i < INNER else "pointwise0"][0, 0]
        if i < INNER:
            inner.append(expert["pointwise0"][0, 0])
        if i == 0:  # a 1x1 kernel scales the channels: the matrix behind takes it over
            inner[0] = expert["depthwise0"][0, 0, 0, :, None] * inner[0]
            behind = expert["depthwise1"][0, 0, 0, :, None] * behind
        else:
            taps += [
                expert[name].reshape(-1, behind.shape[0])
                for name in ("depthwise0", "depthwise1")
                if name in expert
            ]
        last.append(behind)
    outs = jnp.split(params["out"]["kernel"][0, 0], OUTER)
    merged = [how.matmul(*pair) for pair in zip(last, outs[:-1], strict=True)]
    outer = gates[:, :, None, None] * jnp.stack([*merged, outs[-1]])
    outer = jnp.pad(outer, ((0, -len(gates) % images), (0, 0), (0, 0), (0, 0)))
    outer = outer.reshape(-1, images, *outer.shape[1:])
    shared = jnp.broadcast_to(jnp.stack(inner)[:, None], (INNER, images, *inner[0].shape))
    kernels = jnp.pad(jnp.concatenate(taps), ((0, TAP_ROWS - TAPS), (0, 0)))
    return Weights(
        vector_in_lanes(kernels, images),
        matrices_in_lanes(shared),
        matrices_in_lanes(jnp.swapaxes(outer, 1, 2)),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mixture_step(plan: Plan, strips: jax.Array, weights: Weights, borders: Borders) -> jax.Array:
    """s <- ReLU(ReLU(what the experts add) + s), see `mefc_forward.step`."""
    return step(plan, False, strips, weights, borders)[0]


def _forward(
    plan: Plan, strips: jax.Array, weights: Weights, borders: Borders
) -> tuple[jax.Array, Any]:
    # With what the experts add, the gradient computes each feature once.
    after, kept = step(plan, True, strips, weights, borders)
    return after, (strips, kept, weights, borders)


def _backward(
    plan: Plan, residuals: Any, cotangent: jax.Array
) -> tuple[jax.Array, Weights, None]:
    strips, kept, weights, borders = residuals
    return *step_gradient(plan, strips, kept, cotangent, weights, borders), None


mixture_step.defvjp(_forward, _backward)
