"""One step of the mixture of experts (MEFC) in the form for TPU's matrix unit.

Its images have few channels (48 or 96) and large kernels. Squares of 2 x 2 pixels of 32 channels
fill a block of 128, and a kernel of 7 x 7 pixels becomes one of 5 x 5 squares, one of 5 x 5 or
3 x 3 pixels one of 3 x 3.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.block_convolution import (
    block_convolution,
    clear_rows,
    diagonal_kernel,
    into_blocks,
    mix_blocks,
    relu,
    space_to_blocks,
)
from drsformer_jax.ops.rows import (
    RowShards,
    are_inside,
    positions,
    with_neighbours,
    without_neighbours,
)

PHASES = 2
POOL = 3
# Squares that an expert reaches out, both convolutions of a separable one together.
HALO = 3


def mixture_by_blocks(
    state: jax.Array,
    weights: jax.Array,
    params: Mapping[str, Any],
    dilations: Sequence[int],
    precision: lax.PrecisionLike = None,
    rows: RowShards | None = None,
) -> jax.Array:
    """One step: s <- ReLU(ReLU(conv1x1(concat_i(w_i expert_i(s)))) + s).

    Args:
      state: B H/2 W/2 G L, from `space_to_blocks`.
      weights: B experts.
      params: of `models.mefc.MixtureStep`; experts with a second pointwise kernel are separable.
      dilations: of the convolutional experts.
      rows: how the rows of the state are split over devices; None: they are not.

    Returns:
      The next state, like the state.
    """
    out = jnp.split(params["out"]["kernel"][0, 0], len(dilations) + 1)
    convolve = functools.partial(_depthwise, precision=precision)
    mix = functools.partial(mix_blocks, phases=PHASES, precision=precision)
    # The matrices are the same for all images: an expert's weight multiplies what comes out.
    gate = weights[:, :, None, None, None, None]
    wide, halo = state, 0
    if rows is not None:
        halo = HALO
        wide = with_neighbours(state, halo, rows, axis=1)
        inside = are_inside(rows, state.shape[1] * PHASES, halo * PHASES)
    update = gate[:, -1] * mix(_average_pool(wide, rows), out[-1])
    for i, dilation in enumerate(dilations):
        kernels = {name: value["kernel"] for name, value in params[f"expert{i}"].items()}
        feature, first, last = wide, kernels["pointwise0"][0, 0], kernels.get("pointwise1")
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


def _average_pool(x: jax.Array, rows: RowShards | None) -> jax.Array:
    """3x3 mean over the pixels inside the image, like `models.mefc.average_pool`."""
    height, columns, blocks, size = x.shape[1:]
    channels = size // PHASES**2
    ones = jnp.ones((POOL, POOL, blocks, channels), jnp.promote_types(x.dtype, jnp.float32))
    total = block_convolution(x, diagonal_kernel(ones, 1, PHASES))

    def inside(position: jax.Array, size: int) -> jax.Array:
        """How many of three neighbouring positions lie inside, for each position."""
        return 1 + (position > 0).astype(total.dtype) + (position < size - 1).astype(total.dtype)

    if rows is None:
        row_counts = inside(jnp.arange(height * PHASES), height * PHASES)[:, None]
    else:
        total = without_neighbours(total, HALO, axis=1)
        band = total.shape[1] * PHASES
        row_counts = inside(positions(rows, band), rows.level_height(band))[:, None]
    counts = row_counts * inside(jnp.arange(columns * PHASES), columns * PHASES)
    counts = jnp.broadcast_to(counts[None, :, :, None], (1, *counts.shape, channels))
    return (total / space_to_blocks(counts, PHASES, size)).astype(x.dtype)
