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
from drsformer_jax.ops.l2_norm import global_cosines, l2_norm
from drsformer_jax.ops.rows import (
    RowShards,
    clear_outside,
    clear_padding,
    with_neighbours,
    without_neighbours,
)


def query_key_value_by_blocks(
    x: jax.Array,
    qkv: Mapping[str, jax.Array],
    qkv_dwconv: Mapping[str, jax.Array],
    heads: int,
    precision: lax.PrecisionLike = None,
    size: int = LANES,
    rows: RowShards | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Cosines between queries and keys, and the values.

    Each of the three has blocks of its own, so that taking them apart moves nothing. The norms
    divide the products, not the images: these are read once less, and not rounded again.

    Args:
      x: B C H W.
      qkv, qkv_dwconv: "kernel" (1 1 C 3C and kh kw 1 3C) and perhaps "bias".
      size: channels of a block.
      rows: how the rows of x are split over devices; None: they are not.

    Returns:
      B heads c c in at least float32, and B H W G size in the dtype of x.
    """
    channels = x.shape[1]

    def blocks(weight: jax.Array) -> jax.Array:
        """... 3C -> ... 3G size."""
        parts = into_blocks(weight.reshape(*weight.shape[:-1], 3, channels), size)
        return parts.reshape(*weight.shape[:-1], -1, size)

    if rows is not None:
        x = with_neighbours(x, 1, rows)
    y = to_blocks(jnp.moveaxis(x, 1, -1), blocks(qkv["kernel"][0, 0]), precision)
    if "bias" in qkv:
        y = y + blocks(qkv["bias"]).astype(x.dtype)
        y = y if rows is None else clear_outside(y, rows, 1, axis=1)
    kernel = diagonal_kernel(blocks(qkv_dwconv["kernel"][:, :, 0]))
    y = block_convolution(y, kernel, precision=precision)
    y = y if rows is None else without_neighbours(y, 1, axis=1)
    if "bias" in qkv_dwconv:
        y = y + blocks(qkv_dwconv["bias"]).astype(x.dtype)
    query, key, value = jnp.split(y, 3, axis=3)
    if rows is not None:
        return _global_cosines(query, key, precision, heads, channels, rows), value
    return _heads(_cosines(query, key, precision), heads, channels), value


def _heads(cosines: jax.Array, heads: int, channels: int) -> jax.Array:
    """Of the whole map B GL GL, the heads are the squares along the diagonal: B heads c c."""
    cosines = cosines[:, :channels, :channels]
    each = channels // heads
    per_head = [cosines[:, i : i + each, i : i + each] for i in range(0, channels, each)]
    return jnp.stack(per_head, axis=1)


def _products(query: jax.Array, key: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """B N I and B N J -> B I J in at least float32."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.einsum("bni,bnj->bij", query, key, precision=precision, preferred_element_type=dtype)


def _global_cosines(
    query: jax.Array,
    key: jax.Array,
    precision: lax.PrecisionLike,
    heads: int,
    channels: int,
    rows: RowShards,
) -> jax.Array:
    """Bands B H W G L twice -> B heads c c; only the heads are sent."""
    batch = query.shape[0]
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    query, key = (
        clear_padding(y, rows, axis=1).reshape(batch, -1, y.shape[3] * y.shape[4])
        for y in (query, key)
    )

    def squares(y: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.square(y.astype(dtype)), axis=1)
        return total[:, :channels].reshape(batch, heads, -1)

    products = _heads(_products(query, key, precision), heads, channels)
    return global_cosines(products, (squares(query), squares(key)), rows)


def _cosines(query: jax.Array, key: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """B H W G L twice -> B GL GL in at least float32: products over all pixels by both norms."""
    batch = query.shape[0]
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    query, key = (y.reshape(batch, -1, y.shape[3] * y.shape[4]) for y in (query, key))
    products = _products(query, key, precision)
    query_norm, key_norm = (l2_norm(y.astype(dtype), axis=1) for y in (query, key))
    return products / query_norm[:, :, None] / key_norm[:, None, :]
