"""The sparse Transformer block by two Pallas kernels for TPU.

Behind the first pass of attention (`tksa_kernel`) and its map, the second pass, x + M v, is in
front of the feed-forward network's LayerNorm (`msfn_kernel`): what is between the halves of the
block never leaves fast memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import msfn_kernel, tksa_kernel


def block_by_kernels(
    image: Image, params: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> Image:
    """y = x + TKSA(LN(x)), then y + MSFN(LN(y)).

    Args:
      image: B C H W, one that `why_not` has nothing against.
      params: of `models.drsformer.SparseTransformerBlock`.
      ks: how many entries of each row the branches of attention keep.
      epsilon: of LayerNorm.

    Returns:
      B C H W.
    """
    image, attended = tksa_kernel.attended_by_kernel(image, params, heads, ks, epsilon)
    return msfn_kernel.feed_forward_by_kernel(image, params, epsilon, attended)


def why_not(
    image: Image, params: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> str | None:
    """Why the kernels cannot compute this, in words; None where they can."""
    reason = tksa_kernel.why_not(image, params, heads, ks, epsilon)
    if reason is None:
        values = tksa_kernel.lanes_of_values(image.channels, heads)
        reason = msfn_kernel.why_not(image, params, epsilon, values)
    return reason
