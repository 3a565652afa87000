"""Queries, keys and values of top-k sparse attention (TKSA) in the form for TPU's matrix unit."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.block_convolution import (
    LANES,
    block_convolution,
    diagonal_kernel,
    into_blocks,
    to_blocks,
)
from drsformer_jax.ops.l2_norm import l2_norm


def query_key_value_by_blocks(
    x: jax.Array,
    qkv: Mapping[str, jax.Array],
    qkv_dwconv: Mapping[str, jax.Array],
    heads: int,
    precision: lax.PrecisionLike = None,
    size: int = LANES,
) -> tuple[jax.Array, jax.Array]:
    """Cosines between queries and keys, and the values.

    Each of the three has blocks of its own, so that taking them apart moves nothing. The norms
    divide the products, not the images: these are read once less, and not rounded again.

    Args:
      x: B C H W.
      qkv, qkv_dwconv: "kernel" (1 1 C 3C and kh kw 1 3C) and perhaps "bias".
      size: channels of a block.

    Returns:
      B heads c c in at least float32, and B H W G size in the dtype of x.
    """
    channels = x.shape[1]

    def blocks(weight: jax.Array) -> jax.Array:
        """... 3C -> ... 3G size."""
        parts = into_blocks(weight.reshape(*weight.shape[:-1], 3, channels), size)
        return parts.reshape(*weight.shape[:-1], -1, size)

    y = to_blocks(jnp.moveaxis(x, 1, -1), blocks(qkv["kernel"][0, 0]), precision)
    if "bias" in qkv:
        y = y + blocks(qkv["bias"]).astype(x.dtype)
    kernel = diagonal_kernel(blocks(qkv_dwconv["kernel"][:, :, 0]))
    y = block_convolution(y, kernel, precision=precision)
    if "bias" in qkv_dwconv:
        y = y + blocks(qkv_dwconv["bias"]).astype(x.dtype)
    query, key, value = jnp.split(y, 3, axis=3)
    cosines = _cosines(query, key, precision)[:, :channels, :channels]
    # Of the whole map, the heads are the squares along the diagonal.
    each = channels // heads
    per_head = [cosines[:, i : i + each, i : i + each] for i in range(0, channels, each)]
    return jnp.stack(per_head, axis=1), value


def _cosines(query: jax.Array, key: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """B H W G L twice -> B GL GL in at least float32: products over all pixels by both norms."""
    batch = query.shape[0]
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    query, key = (y.reshape(batch, -1, y.shape[3] * y.shape[4]) for y in (query, key))
    products = jnp.einsum(
        "bni,bnj->bij", query, key, precision=precision, preferred_element_type=dtype
    )
    query_norm, key_norm = (l2_norm(y.astype(dtype), axis=1) for y in (query, key))
    return products / query_norm[:, :, None] / key_norm[:, None, :]
