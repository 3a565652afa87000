"""The steps of the mixture of experts (MEFC) in the form for TPU's matrix unit.

Its images have few channels (48 or 96) and large kernels. Squares of 2 x 2 pixels of 32 channels
fill a block of 128, and a kernel of 7 x 7 pixels becomes one of 5 x 5 squares, one of 5 x 5 or
3 x 3 pixels one of 3 x 3.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image, pixels_around
from drsformer_jax.ops.rows import are_inside, with_neighbours, without_neighbours
from drsformer_jax.ops.tpu.block_convolution import (
    LANES,
    block_convolution,
    blocks_to_space,
    clear_rows,
    diagonal_kernel,
    into_blocks,
    mix_blocks,
    relu,
    space_to_blocks,
)

PHASES = 2
POOL = 3
DILATION = 2
# Squares that an expert reaches out, both convolutions of a separable one together.
HALO = 3


def mixture_by_blocks(
    image: Image, weights: jax.Array, stacked: Mapping[str, Any], size: int = LANES
) -> Image:
    """All steps, one after the other in a loop.

    Args:
      image: B C H W, the first state.
      weights: B steps experts.
      stacked: parameters of `models.mefc.MixtureStep`, of each step on the leading axis.
      size: channels of a block, the pixels of a square counted.

    Returns:
      B C H W, the last state.
    """
    how = image.how

    def step(state: jax.Array, inputs: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
        return mixture_step(state, inputs[1], inputs[0], how), None

    if how.is_recomputed:
        step = jax.checkpoint(step, prevent_cse=False)
    state = space_to_blocks(jnp.moveaxis(image.array, 1, -1), PHASES, size)
    state, _ = lax.scan(step, state, (stacked, jnp.swapaxes(weights, 0, 1)))
    return Image(jnp.moveaxis(blocks_to_space(state, PHASES, image.channels), -1, 1), how)


def mixture_step(
    state: jax.Array, weights: jax.Array, params: Mapping[str, Any], how: Execution
) -> jax.Array:
    """One step: s <- ReLU(ReLU(conv1x1(concat_i(w_i expert_i(s)))) + s).

    Args:
      state: B H/2 W/2 G L, from `space_to_blocks`.
      weights: B experts.
      params: of `models.mefc.MixtureStep`; experts with a second pointwise kernel are separable,
        the others dilated.

    Returns:
      The next state, like the state.
    """
    rows, precision = how.rows, how.products
    experts = [params[f"expert{i}"] for i in range(len(params) - 1)]
    out = jnp.split(params["out"]["kernel"][0, 0], len(experts) + 1)
    convolve = functools.partial(_depthwise, precision=precision)
    mix = functools.partial(mix_blocks, phases=PHASES, precision=precision)
    # The matrices are the same for all images: an expert's weight multiplies what comes out.
    gate = weights[:, :, None, None, None, None]
    wide, halo = state, 0
    if rows is not None:
        halo = HALO
        wide = with_neighbours(state, halo, rows, axis=1)
        inside = are_inside(rows, state.shape[1] * PHASES, halo * PHASES)
    update = gate[:, -1] * mix(_average_pool(wide, how), out[-1])
    for i, expert in enumerate(experts):
        kernels = {name: value["kernel"] for name, value in expert.items()}
        feature, first, last = wide, kernels["pointwise0"][0, 0], kernels.get("pointwise1")
        dilation = DILATION if last is None else 1
        feature, first = convolve(feature, kernels["depthwise0"][:, :, 0], dilation, first)
        if last is not None:
            feature = relu(mix(feature, first).astype(state.dtype))
            feature = feature if rows is None else clear_rows(feature, inside, PHASES)
            feature, first = convolve(feature, kernels["depthwise1"][:, :, 0], 1, last[0, 0])
        feature = feature if rows is None else without_neighbours(feature, halo, axis=1)
        merged = jnp.matmul(first, out[i], precision=precision)
        update = update + gate[:, i] * mix(feature, merged)
    return relu(relu(update.astype(state.dtype)) + state)


def _depthwise(
    x: jax.Array,
    kernel: jax.Array,
    dilation: int,
    behind: jax.Array,
    *,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array]:
    """A depthwise convolution with kh kw C, and the weight C D of the 1x1 convolution behind it.

    A 1x1 kernel only scales the channels: the weight behind takes it over.
    """
    if kernel.shape[:2] == (1, 1):
        return x, kernel[0, 0, :, None] * behind
    blocks = into_blocks(kernel, x.shape[-1] // PHASES**2)
    return block_convolution(
        x, diagonal_kernel(blocks, dilation, PHASES), precision=precision
    ), behind


def _average_pool(x: jax.Array, how: Execution) -> jax.Array:
    """3x3 mean over the pixels inside the image, like `ops.image.average_pool`."""
    blocks, size = x.shape[3:]
    channels = size // PHASES**2
    ones = jnp.ones((POOL, POOL, blocks, channels), jnp.promote_types(x.dtype, jnp.float32))
    total = block_convolution(x, diagonal_kernel(ones, 1, PHASES))
    if how.rows is not None:
        total = without_neighbours(total, HALO, axis=1)
    height, width = total.shape[1:3]
    counts = pixels_around(how, height * PHASES, width * PHASES, total.dtype)
    counts = jnp.broadcast_to(counts[None, :, :, None], (1, *counts.shape, channels))
    return (total / space_to_blocks(counts, PHASES, size)).astype(x.dtype)
