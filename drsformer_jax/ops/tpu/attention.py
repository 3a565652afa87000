"""Queries, keys and values of top-k sparse attention (TKSA) in the form for TPU's matrix unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.attention_map import global_cosines, l2_norm
from drsformer_jax.ops.image import Image, plus
from drsformer_jax.ops.rows import (
    RowShards,
    clear_outside,
    clear_padding,
    with_neighbours,
    without_neighbours,
)
from drsformer_jax.ops.tpu.block_convolution import (
    LANES,
    block_convolution,
    diagonal_kernel,
    from_blocks,
    into_blocks,
    to_blocks,
)


def query_key_value_by_blocks(
    image: Image, params: Mapping[str, Any], heads: int, size: int = LANES
) -> tuple[jax.Array, Image]:
    """Cosines between queries and keys, and the values.

    Each of the three has blocks of its own, so that taking them apart moves nothing. The norms
    divide the products, not the images: these are read once less, and not rounded again.

    Args:
      image: B C H W.
      params: of `models.attention.TopKSparseAttention`.
      size: channels of a block.

    Returns:
      B heads c c in at least float32, and an image in blocks, B H W G size, for
      `mixed_from_blocks`.
    """
    x, rows, precision = image.array, image.how.rows, image.how.products
    qkv, qkv_dwconv = params["qkv"], params["qkv_dwconv"]
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
    values = Image(value, image.how)
    if rows is not None:
        return _global_cosines(query, key, precision, heads, channels, rows), values
    return _heads(_cosines(query, key, precision), heads, channels), values


def mixed_from_blocks(value: Image, weight: jax.Array, bias: jax.Array | None = None) -> Image:
    """`ops.image.mixed` of an image in blocks, B H W G L; the result is B D H W."""
    y = from_blocks(value.array, weight, value.how.products)
    y = jnp.moveaxis(y.astype(value.array.dtype), -1, 1)
    return plus(Image(y, value.how), bias)


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
