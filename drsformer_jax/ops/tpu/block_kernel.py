"""The sparse Transformer block by two Pallas kernels for TPU.

Behind the first pass of attention (`tksa_kernel`) and its map, the second pass, x + M v, is in
front of the feed-forward network's LayerNorm (`msfn_kernel`): what is between the halves of the
block never leaves fast memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import msfn_kernel, msfn_weights, tksa_forward, tksa_kernel


class _Weights(NamedTuple):
    """Of a block, as its kernels take them, and what they leave to XLA.

    Attributes:
      map: what the attention map is made with, and the projection behind it.
      out: the bias of the feed-forward network's projection, if it has one.
    """

    attention: tksa_forward.Weights
    feed_forward: msfn_weights.Weights
    map: dict[str, Any]
    out: dict[str, Any]


class _Block(NamedTuple):
    """The parameters' weights, and y = x + TKSA(LN(x)), then y + MSFN(LN(y)) of B C H W."""

    pack: Callable[[Mapping[str, Any]], _Weights]
    apply: Callable[[jax.Array, _Weights], jax.Array]


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
    block = _block(image, params, heads, ks, epsilon)
    return Image(block.apply(image.array, block.pack(params)), image.how)


def blocks_by_kernels(
    image: Image, stacked: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> Image:
    """Blocks one after the other, in a loop; their weights are packed before it, all at once.

    In the loop they would be packed once more for the gradient, and taken out of arrays whose sizes
    do not fit a TPU's tiles: by the compiler's estimate, more than the packing itself.

    Args: as of `block_by_kernels`, but
      stacked: the parameters of all blocks, on a leading axis.
    """
    block = _block(image, _shapes_of_one(stacked), heads, ks, epsilon)

    def turn(x: jax.Array, weights: _Weights) -> tuple[jax.Array, None]:
        return block.apply(x, weights), None

    # Nothing is merged across a loop's turns.
    body: Any = jax.checkpoint(turn, prevent_cse=False) if image.how.is_recomputed else turn
    x, _ = lax.scan(body, image.array, jax.vmap(block.pack)(stacked))
    return Image(x, image.how)


def _block(
    image: Image, shapes: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> _Block:
    """shapes: of the parameters, or these themselves."""
    plan = tksa_kernel.plan_of(image, shapes, heads, epsilon)
    values = tksa_kernel.lanes_of_values(image.channels, heads)
    layout = msfn_kernel.layout_for(image, shapes, epsilon, values)
    assert plan is not None
    assert not isinstance(layout, str)

    def pack(params: Mapping[str, Any]) -> _Weights:
        attention, out = params["attn"], params["ffn"]["project_out"]
        return _Weights(
            tksa_kernel.packed_weights(plan, params, heads),
            msfn_weights.packed(params, layout),
            {name: leaf for name, leaf in attention.items() if not name.startswith("qkv")},
            {name: leaf for name, leaf in out.items() if name == "bias"},
        )

    def apply(x: jax.Array, weights: _Weights) -> jax.Array:
        out = {**shapes["ffn"]["project_out"], **weights.out}
        params = {
            **shapes,
            "attn": {**shapes["attn"], **weights.map},
            "ffn": {**shapes["ffn"], "project_out": out},
        }
        own = Image(x, image.how)
        y, attended = tksa_kernel.attended_by_kernel(
            own, params, heads, ks, epsilon, weights.attention
        )
        return msfn_kernel.feed_forward_by_kernel(
            y, params, epsilon, attended, weights.feed_forward
        ).array

    return _Block(pack, apply)


def why_not(
    image: Image, params: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> str | None:
    """Why the kernels cannot compute this, in words; None where they can."""
    reason = tksa_kernel.why_not(image, params, heads, ks, epsilon)
    if reason is None:
        values = tksa_kernel.lanes_of_values(image.channels, heads)
        reason = msfn_kernel.why_not(image, params, epsilon, values)
    return reason


def why_not_blocks(
    image: Image, stacked: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> str | None:
    """The same of many blocks."""
    return why_not(image, _shapes_of_one(stacked), heads, ks, epsilon)


def _shapes_of_one(stacked: Mapping[str, Any]) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
