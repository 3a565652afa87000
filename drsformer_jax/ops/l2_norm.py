"""The L2 norm that attention divides by."""

from __future__ import annotations

import jax
import jax.numpy as jnp

NORM_EPSILON = 1e-12


def l2_norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """max(||x||, 1e-12) along an axis, with a gradient that is finite at zero."""
    squared = jnp.sum(jnp.square(x), axis=axis)
    is_zero = squared == 0
    # sqrt has an infinite slope at 0; the inner where keeps it out of the backward pass.
    norm = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))
    return jnp.maximum(norm, NORM_EPSILON)
