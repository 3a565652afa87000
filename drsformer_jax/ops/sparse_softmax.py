"""The mixture of top-k softmaxes at the heart of the sparse attention (TKSA)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def top_k_masks(logits: jax.Array, ks: Sequence[int]) -> list[jax.Array]:
    """For each k, the mask of exactly the k largest entries of each row.

    The masks are nested, so one `lax.top_k` with the largest k serves all.
    Among ties the entry with the lower index wins, as `jax.lax.top_k` has it. The mask is built by
    comparison with the k-th value and index: scattering the indices would put a stop for all chips
    into every block of a partitioned program.

    Args:
      logits: ... N.
      ks: sizes, each from 1 to N.

    Returns:
      One bool array ... N for each k.
    """
    # top_k ranks 0.0 above -0.0, the comparisons below take them for equal: leave one zero only.
    logits = jnp.where(logits == 0, 0.0, lax.stop_gradient(logits))
    values, indices = lax.top_k(logits, max(ks))
    columns = lax.broadcasted_iota(indices.dtype, logits.shape, logits.ndim - 1)
    masks = []
    for k in ks:
        value, index = values[..., k - 1 : k], indices[..., k - 1 : k]
        masks.append((logits > value) | ((logits == value) & (columns <= index)))
    return masks


def masked_softmax_mixture(
    logits: jax.Array, branch_weights: Sequence[jax.Array], masks: Sequence[jax.Array]
) -> jax.Array:
    """sum_i weight_i * softmax(row, of the entries in mask_i), entries outside the mask being zero.

    All branches share one exponential, for a row's maximum is in each of its top-k masks. (CVPR
    2023, section 3.2: the scores of the four branches multiply the same values, so the mixed map
    can be formed first.)

    Args:
      logits: ... N, float32 or float64.
      branch_weights: one scalar for each mask.
      masks: bool ... N, as from `top_k_masks`.

    Returns:
      ... N in the dtype of logits.
    """
    row_maximum = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    exponentials = jnp.exp(logits - row_maximum)
    total = jnp.zeros_like(logits)
    for mask, weight in zip(masks, branch_weights, strict=True):
        kept = jnp.where(mask, exponentials, 0)
        total = total + weight * kept / jnp.sum(kept, axis=-1, keepdims=True)
    return total
