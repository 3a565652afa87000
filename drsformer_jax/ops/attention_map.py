"""The attention map of TKSA: cosines between channels, and a mixture of top-k softmaxes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.execution import CPU, target
from drsformer_jax.ops.image import Image, at_least_float32
from drsformer_jax.ops.outlining import called
from drsformer_jax.ops.rows import RowShards, clear_padding, global_sum

NORM_EPSILON = 1e-12


def cosines_between(query: Image, key: Image, heads: int) -> jax.Array:
    """Between all channels of a head, over the pixels of the whole image.

    A logit in bfloat16 would flip entries of the top-k masks, discontinuously.

    Args:
      query, key: B C H W.

    Returns:
      B heads c c in at least float32.
    """
    how = query.how

    def vectors(image: Image) -> jax.Array:
        """B heads c N."""
        array = image.cleared().array
        if how.rows is not None:
            array = clear_padding(array, how.rows)
        batch, channels, height, width = array.shape
        split = array.reshape(batch, heads, channels // heads, height * width)
        return at_least_float32(split)

    queries, keys = vectors(query), vectors(key)
    products = how.einsum("bhin,bhjn->bhij", queries, keys)
    if how.rows is not None:
        squares = jnp.sum(jnp.square(queries), axis=-1), jnp.sum(jnp.square(keys), axis=-1)
        return global_cosines(products, squares, how.rows)
    # Dividing the c x c products spares two passes over the pixels.
    return products / l2_norm(queries)[..., :, None] / l2_norm(keys)[..., None, :]


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
    products: jax.Array, squares: tuple[jax.Array, jax.Array], rows: RowShards
) -> jax.Array:
    """Products of queries and keys by their norms, where the pixels are split over devices.

    Args:
      products: ... c c, sums over the pixels of this device.
      squares: ... c twice, sums of the squares of queries and of keys.

    Returns:
      ... c c, the same on all devices. They send one message for all three sums.
    """
    count = products.shape[-1]
    sums = jnp.concatenate([products, *(square[..., None] for square in squares)], axis=-1)
    total = global_sum(sums, rows)
    query_norm, key_norm = (l2_norm_of(total[..., count + i]) for i in range(2))
    return total[..., :count] / query_norm[..., :, None] / key_norm[..., None, :]


def masks_by_top_k(logits: jax.Array, ks: Sequence[int]) -> list[jax.Array]:
    """By comparison with the k-th value and index.

    Scattering the indices would put a stop for all chips into every block of a partitioned program.
    """
    values, indices = lax.top_k(logits, max(ks))
    columns = lax.broadcasted_iota(indices.dtype, logits.shape, logits.ndim - 1)
    masks = []
    for k in ks:
        value, index = values[..., k - 1 : k], indices[..., k - 1 : k]
        masks.append((logits > value) | ((logits == value) & (columns <= index)))
    return masks


def masks_by_rank(logits: jax.Array, ks: Sequence[int]) -> list[jax.Array]:
    """By counting, for each entry, those that come before it: all pairs of a row are compared.

    On CPU lax.top_k is a sort on one core; for rows of 48 and 96 this takes a third to a tenth of
    its time, and its work grows with the square of the row.
    """
    index = jnp.arange(logits.shape[-1])
    # The entry that is ranked runs along the last axis: a vector of sums, none of them a chain.
    other, entry = logits[..., :, None], logits[..., None, :]
    is_first = index[:, None] < index
    rank = jnp.sum((other > entry) | ((other == entry) & is_first), axis=-2, dtype=jnp.int32)
    return [rank < k for k in ks]


@functools.cache
def _called_masks_by_rank(ks: tuple[int, ...]) -> Callable[[jax.Array], list[jax.Array]]:
    """As a call, so that each logit is one number in memory.

    XLA would compute it anew on both sides of the comparison. Compiled with sums in any order, as
    training is (`training.step`), the two may then differ, and an entry is ranked behind itself.
    """
    return called(functools.partial(masks_by_rank, ks=ks))


def top_k_masks(
    logits: jax.Array, ks: Sequence[int], platform: str | None = None
) -> list[jax.Array]:
    """For each k, the mask of exactly the k largest entries of each row.

    The masks are nested, so one ranking serves all: a `lax.top_k` with the largest k, on CPU a
    count. Among ties the entry with the lower index wins, as `jax.lax.top_k` has it.

    Args:
      logits: ... N, without NaN.
      ks: sizes, each from 1 to N.
      platform: that the program is for, see `ops.execution`.

    Returns:
      One bool array ... N for each k.
    """
    # top_k ranks 0.0 above -0.0, the comparisons here take them for equal: leave one zero only.
    logits = jnp.where(logits == 0, 0.0, lax.stop_gradient(logits))
    if target(platform) == CPU:
        return _called_masks_by_rank(tuple(ks))(logits)
    return masks_by_top_k(logits, ks)


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
