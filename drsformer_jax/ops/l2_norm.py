"""The L2 norm that attention divides by."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from drsformer_jax.ops.rows import RowShards, global_sum

NORM_EPSILON = 1e-12


def l2_norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """max(||x||, 1e-12) along an axis, with a gradient that is finite at zero."""
    return l2_norm_of(jnp.sum(jnp.square(x), axis=axis))


def l2_norm_of(squared: jax.Array) -> jax.Array:
    """The same from the sum of squares."""
    is_zero = squared == 0
    # sqrt has an infinite slope at 0; the inner where keeps it out of the backward pass.
    norm = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))
    return jnp.maximum(norm, NORM_EPSILON)


def global_cosines(
    products: jax.Array, query: jax.Array, key: jax.Array, rows: RowShards
) -> jax.Array:
    """Products of queries and keys by their norms, where the pixels are split over devices.

    Args:
      products: ... i j, summed over the pixels of this device.
      query, key: ... i N and ... j N, zero in padding rows.

    Returns:
      ... i j, the same on all devices. They send one message for all three sums.
    """
    squares = [jnp.sum(jnp.square(y), axis=-1)[..., None] for y in (query, key)]
    count = products.shape[-1]
    total = global_sum(jnp.concatenate([products, *squares], axis=-1), rows)
    query_norm, key_norm = (l2_norm_of(total[..., count + i]) for i in range(2))
    return total[..., :count] / query_norm[..., :, None] / key_norm[..., None, :]
