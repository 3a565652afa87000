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

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import lanes
from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import PAD, SUBLANES
from drsformer_jax.ops.tpu.mefc_forward import Borders, Experts, Plan, Weights, steps
from drsformer_jax.ops.tpu.mefc_gradient import steps_gradient
from drsformer_jax.ops.tpu.packing import (
    cut_into_strips,
    images_in_lanes,
    into_lanes,
    matrices_in_lanes,
    out_of_lanes,
    rows_inside,
    rows_of_strips,
    vector_in_lanes,
)
from drsformer_jax.ops.tpu.tiles import Tiles

# Tiles of fewer pixels leave the vector unit waiting for its own results.
MIN_PIXELS = 64


def mixture_by_kernel(image: Image, weights: jax.Array, stacked: Mapping[str, Any]) -> Image:
    """All steps, one after the other: `ops.tpu.mefc.mixture_by_blocks` by kernels.

    Args:
      image: B C H W, the first state, not negative; one that `why_not` has nothing against.
      weights: B steps experts.
      stacked: parameters of `models.mefc.MixtureStep`, of each step on the leading axis.

    Returns:
      B C H W, the last state.
    """
    how, (batch, channels, height, _) = image.how, image.array.shape
    plan = plan_of(image, stacked)
    assert plan is not None
    images = images_in_lanes(batch, channels)
    borders = _borders(plan, how, height)

    state = into_lanes(jnp.moveaxis(image.array, 1, -1), images)
    pack = functools.partial(packed_weights, plan.experts, images=images, how=how)
    packed = jax.vmap(pack, in_axes=(0, 1))(stacked, weights)
    packed = packed._replace(outer=jnp.swapaxes(packed.outer, 0, 1))
    # Strips need what is around them after each step.
    turns = [slice(i, i + 1) for i in range(weights.shape[1])] if plan.halo else [slice(None)]
    for turn in turns:
        some = Weights(packed.taps[turn], packed.inner[turn], packed.outer[:, turn])
        strips = cut_into_strips(state, plan.tiles.height, plan.halo, how.rows)
        state = mixture_steps(plan, strips, some, borders).reshape(state.shape)
    state = out_of_lanes(state, images, batch, channels)
    return Image(jnp.moveaxis(state, -1, 1), how)


def why_not(image: Image, weights: jax.Array, stacked: Mapping[str, Any]) -> str | None:
    """Why the kernels cannot compute this, or None."""
    dtype, channels, width = image.array.dtype, image.channels, image.array.shape[3]
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"{dtype} activations"
    if channels > LANES:
        return f"{channels} channels, more than {LANES}"
    if width % SUBLANES:
        return f"{width} columns, which are no multiple of {SUBLANES}"
    if plan_of(image, stacked) is None:
        return f"the fast memory of a core holds no strip of {width} columns"
    return None


def plan_of(image: Image, params: Mapping[str, Any]) -> Plan | None:
    """The largest strips that VMEM holds; None where it holds none."""
    how, (height, width) = image.how, image.array.shape[2:]
    experts, vmem = _experts(params), lanes.vmem_bytes(how)
    for strip in sorted((n for n in range(1, height + 1) if height % n == 0), reverse=True):
        halo = 0 if strip == height and how.rows is None else experts.reach
        if halo > strip:
            break
        tiles = Tiles.of(strip, width, experts.reach, halo)
        if tiles.pixels < min(MIN_PIXELS, strip * width):
            continue
        plan = Plan(experts, tiles, halo, lanes.products(how), vmem)
        if _bytes_of(plan, image.array.dtype.itemsize) <= vmem:
            return plan
    return None


def _experts(params: Mapping[str, Any]) -> Experts:
    """From the parameters of a step, also stacked; those of separable experts have two kernels."""
    separable: list[int] = []
    dilated: list[int] = []
    for i in range(1, len(params) - 1):
        expert = params[f"expert{i}"]
        sizes = separable if "depthwise1" in expert else dilated
        sizes.append(expert["depthwise0"]["kernel"].shape[-3])
    return Experts.of(separable, dilated)


def _bytes_of(plan: Plan, itemsize: int) -> int:
    """VMEM that the gradient takes, which is more than the step itself."""
    experts, height, width = plan.experts, plan.tiles.height, plan.tiles.width
    frames = 4 * (height + 2 * plan.tiles.above) * (width + 2 * PAD) * 4
    strips = (2 * (height + 2 * plan.halo) + 4 * height + 2 * plan.tiles.above) * width * itemsize
    weights = 5 * (experts.inner + experts.outer) * LANES * 4 + 11 * experts.taps * 4
    borders = 4 * (height + plan.tiles.above) * SUBLANES * 4 + 2 * width * 4
    return (frames + strips + weights + borders) * LANES


def _borders(plan: Plan, how: Execution, height: int) -> Borders:
    """height: of the image, or a device's band of it."""
    strip, width, above = plan.tiles.height, plan.tiles.width, plan.tiles.above
    row, total = rows_of_strips(height, strip, 0, how.rows)

    def count(position: jax.Array, size: int) -> jax.Array:
        """One by how many of three neighbouring positions lie inside."""
        number = 1 + (position > 0).astype(jnp.float32) + (position < size - 1)
        return jnp.broadcast_to((1 / number)[..., None], (*position.shape, LANES))

    return Borders(
        count(row, total)[:, :, None],
        count(jnp.arange(width), width),
        rows_inside(height, strip, above, how.rows),
    )


def packed_weights(
    experts: Experts, params: Mapping[str, Any], gates: jax.Array, *, images: int, how: Execution
) -> Weights:
    """A step's parameters in lanes.

    Args:
      params: of `models.mefc.MixtureStep`.
      gates: B experts.
      images: that share the lanes.
    """
    kernels = [
        {name: layer["kernel"] for name, layer in params[f"expert{i}"].items()}
        for i in range(experts.pool)
    ]
    first = [expert["pointwise0"][0, 0] for expert in kernels]
    inner, last = first[: experts.inner], first[experts.inner :]
    last = [*(expert["pointwise1"][0, 0] for expert in kernels[: experts.inner]), *last]
    # A 1x1 kernel scales the channels: the matrix behind takes it over.
    inner[0] = kernels[0]["depthwise0"][0, 0, 0, :, None] * inner[0]
    last[0] = kernels[0]["depthwise1"][0, 0, 0, :, None] * last[0]
    taps = jnp.concatenate(
        [
            expert[name].reshape(-1, expert[name].shape[-1])
            for expert in kernels[1:]
            for name in ("depthwise0", "depthwise1")
            if name in expert
        ]
    )
    outs = jnp.split(params["out"]["kernel"][0, 0], experts.outer)
    merged = [how.matmul(*pair) for pair in zip(last, outs[:-1], strict=True)]
    outer = gates[:, :, None, None] * jnp.stack([*merged, outs[-1]])
    outer = jnp.pad(outer, ((0, -len(gates) % images), (0, 0), (0, 0), (0, 0)))
    outer = outer.reshape(-1, images, *outer.shape[1:])
    shared = jnp.stack(inner)[:, None]
    return Weights(
        vector_in_lanes(jnp.pad(taps, ((0, experts.taps - len(taps)), (0, 0))), images),
        matrices_in_lanes(jnp.repeat(shared, images, axis=1)),
        matrices_in_lanes(jnp.swapaxes(outer, 1, 2)),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mixture_steps(plan: Plan, strips: jax.Array, weights: Weights, borders: Borders) -> jax.Array:
    """s <- ReLU(ReLU(what the experts add) + s), see `mefc_forward.steps`."""
    return steps(plan, False, strips, weights, borders)[0]


def _forward(
    plan: Plan, strips: jax.Array, weights: Weights, borders: Borders
) -> tuple[jax.Array, Any]:
    # With what the experts add, the gradient computes each feature once.
    after, kept, *before = steps(plan, True, strips, weights, borders)
    return after, (before[0] if before else strips[:, :, None], kept, weights, borders)


def _backward(plan: Plan, residuals: Any, cotangent: jax.Array) -> tuple[jax.Array, Weights, None]:
    before, kept, weights, borders = residuals
    return *steps_gradient(plan, before, kept, cotangent, weights, borders), None


mixture_steps.defvjp(_forward, _backward)
