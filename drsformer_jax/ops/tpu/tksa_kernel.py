"""Sparse attention (TKSA) with its LayerNorm and residual as Pallas kernels for TPU.

One pass over an image makes LayerNorm, queries, keys and values with their 3x3 convolutions, the
products of queries and keys over all pixels and the sums of their squares; only the values leave
fast memory. The attention map is small, and computed outside. The second pass, which multiplies the
values by it, is a part of the next kernel (`block_kernel`), or XLA's.
Heads lie in groups that fill the 128 lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from drsformer_jax.ops.attention_map import (
    global_cosines,
    l2_norm_of,
    masked_softmax_mixture,
    top_k_masks,
)
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import lanes
from drsformer_jax.ops.tpu.attended import Attended, added_to
from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.lanes import PAD, SUBLANES
from drsformer_jax.ops.tpu.layer_norm import LayerNorm
from drsformer_jax.ops.tpu.packing import cut_into_strips, rows_inside
from drsformer_jax.ops.tpu.tiles import Tiles
from drsformer_jax.ops.tpu.tksa_forward import PARTS, REACH, TAP_ROWS, Plan, Weights, compare
from drsformer_jax.ops.tpu.tksa_gradient import compare_gradient


def attention_by_kernel(
    image: Image, params: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> Image:
    """x + TKSA(LN(x)).

    Args:
      image: B C H W, one that `why_not` has nothing against.
      params: "norm1" of `models.layers.LayerNorm`, "attn" of `models.attention`.
      ks: how many entries of each row the branches keep.
      epsilon: of LayerNorm.

    Returns:
      B C H W.
    """
    return added_to(*attended_by_kernel(image, params, heads, ks, epsilon))


def attended_by_kernel(
    image: Image,
    params: Mapping[str, Any],
    heads: int,
    ks: Sequence[int],
    epsilon: float,
    weights: Weights | None = None,
) -> tuple[Image, Attended]:
    """The image, and TKSA(LN(x)) but for its second pass.

    Args: as of `attention_by_kernel`, and
      weights: the `packed_weights`, where they are there already; of what is in them, params
        needs shapes alone.

    Returns:
      What is to be added: image and values. The image is the one that was given, and has gone
      through the first pass, so that its gradient is added there.
    """
    how, (batch, channels, height, width) = image.how, image.array.shape
    attention = params["attn"]
    plan = plan_of(image, params, heads, epsilon)
    assert plan is not None
    x = jnp.moveaxis(image.array, 1, -1)
    tiles = plan.tiles
    strips = cut_into_strips(x, tiles.height, REACH if plan.is_strip else 0, how.rows)
    if plan.is_strip:
        fill = (tiles.above - REACH,) * 2
        strips = jnp.pad(strips, ((0, 0), (0, 0), fill, (0, 0), (0, 0)))
    inside = rows_inside(height, tiles.height, tiles.above, how.rows)
    if weights is None:
        weights = packed_weights(plan, params, heads)
    strips, value, products, squares = first_pass(plan, strips, weights, inside)
    cosines = _cosines(products, squares, heads, channels, image)
    logits = cosines * attention["temperature"]
    masks = top_k_masks(logits, ks, how.platform)
    shares = [attention[f"attn{i}"] for i in range(1, len(ks) + 1)]
    attended = masked_softmax_mixture(logits, shares, masks)
    project = attention["project_out"]
    per_head = project["kernel"][0, 0].reshape(heads, -1, channels).astype(attended.dtype)
    merged = how.einsum("bhij,hid->bdhj", attended, per_head).reshape(batch, channels, channels)
    own = strips[:, :, plan.halo : plan.halo + tiles.height].reshape(x.shape)
    return Image(jnp.moveaxis(own, -1, 1), how), Attended(
        value.reshape(batch, height, width, -1),
        in_groups(merged, heads).reshape(batch, channels, -1),
        project.get("bias", jnp.zeros(channels, jnp.float32))[None],
    )


def why_not(
    image: Image, params: Mapping[str, Any], heads: int, ks: Sequence[int], epsilon: float
) -> str | None:
    """Why the kernels cannot compute this, or None."""
    dtype, channels, width = image.array.dtype, image.channels, image.array.shape[3]
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"{dtype} activations"
    if channels > LANES * heads:
        return f"{channels // heads} channels a head, more than {LANES}"
    if width % SUBLANES:
        return f"{width} columns, which are no multiple of {SUBLANES}"
    if plan_of(image, params, heads, epsilon) is None:
        return f"the fast memory of a core holds no strip of {width} columns"
    return None


def plan_of(image: Image, params: Mapping[str, Any], heads: int, epsilon: float) -> Plan | None:
    """The largest strips that VMEM holds; None where it holds none."""
    how, (channels, height, width) = image.how, image.array.shape[1:]
    vmem = lanes.vmem_bytes(how)
    groups = lanes_of_values(channels, heads) // LANES
    for strip in sorted((n for n in range(1, height + 1) if height % n == 0), reverse=True):
        is_strip = strip < height or how.rows is not None
        tiles = Tiles.of(strip, width, REACH, REACH * is_strip)
        plan = Plan(
            tiles=tiles,
            is_strip=is_strip,
            channels=channels,
            groups=groups,
            norm=LayerNorm.of(params["norm1"], epsilon),
            has_biases="bias" in params["attn"]["qkv"],
            precision=lanes.products(how),
            vmem=vmem,
        )
        if _bytes_of(plan, image.array.dtype.itemsize) <= vmem:
            return plan
    return None


def _bytes_of(plan: Plan, itemsize: int) -> int:
    """VMEM that the gradient takes, which is more than the pass itself."""
    height, width = plan.tiles.height, plan.tiles.width
    lanes_of_image = -(-plan.channels // LANES) * LANES
    frames = 2 * PARTS * (height + 2 * plan.tiles.above) * (width + 2 * PAD) * LANES * 4
    strips = plan.rows * width * lanes_of_image * (7 * itemsize + 4)
    values = 2 * height * width * LANES * itemsize
    weights = 4 * PARTS * plan.channels * LANES * 4 + 14 * TAP_ROWS * LANES * 4
    borders = 2 * plan.rows * SUBLANES * LANES * 4
    return frames + strips + values + weights + borders


def lanes_of_values(channels: int, heads: int) -> int:
    """Of all groups of heads."""
    return -(-heads // _heads_in_a_group(heads, channels)) * LANES


def _heads_in_a_group(heads: int, channels: int) -> int:
    return min(heads, max(1, LANES * heads // channels))


def in_groups(x: jax.Array, heads: int) -> jax.Array:
    """... C -> ... G LANES: whole heads, side by side."""
    each = x.shape[-1] // heads
    together = _heads_in_a_group(heads, x.shape[-1])
    groups = -(-heads // together)
    lead = [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(
        x.reshape(*x.shape[:-1], heads, each), [*lead, (0, groups * together - heads), (0, 0)]
    )
    x = x.reshape(*x.shape[:-2], groups, together * each)
    return jnp.pad(x, [*lead, (0, 0), (0, LANES - together * each)])


def _cosines(
    products: jax.Array, squares: jax.Array, heads: int, channels: int, image: Image
) -> jax.Array:
    """Sums over the pixels of each strip, N T G L L and N T G 2 L -> B heads c c."""
    each, together = channels // heads, _heads_in_a_group(heads, channels)
    used = together * each
    products, squares = jnp.sum(products, axis=1), jnp.sum(squares, axis=1)
    batch = products.shape[0]
    blocks = products[..., :used, :used].reshape(batch, -1, together, each, together, each)
    blocks = jnp.moveaxis(jnp.diagonal(blocks, axis1=2, axis2=4), -1, 2)
    own = blocks.reshape(batch, -1, each, each)[:, :heads]
    squares = jnp.moveaxis(squares[..., :used], 2, 0).reshape(2, batch, -1, each)[:, :, :heads]
    if image.how.rows is not None:
        return global_cosines(own, (squares[0], squares[1]), image.how.rows)
    of_query, of_key = l2_norm_of(squares)
    return own / of_query[..., :, None] / of_key[..., None, :]


def packed_weights(plan: Plan, params: Mapping[str, Any], heads: int) -> Weights:
    """Parameters in groups of heads."""
    attention, channels = params["attn"], plan.channels

    def parts(weight: jax.Array) -> jax.Array:
        """... 3C -> G 3 ... LANES."""
        split = weight.reshape(*weight.shape[:-1], PARTS, channels)
        return jnp.moveaxis(in_groups(split, heads), (-2, -3), (0, 1))

    taps = parts(attention["qkv_dwconv"]["kernel"][:, :, 0].reshape(-1, PARTS * channels))
    taps = taps.reshape(plan.groups, -1, LANES)
    biases = None
    if plan.has_biases:
        pair = [parts(attention[name]["bias"]) for name in ("qkv", "qkv_dwconv")]
        both = jnp.concatenate(pair, axis=1)
        biases = jnp.pad(both, ((0, 0), (0, SUBLANES - both.shape[1]), (0, 0)))
    return Weights(
        plan.norm.packed(params["norm1"]),
        parts(attention["qkv"]["kernel"][0, 0]),
        jnp.pad(taps, ((0, 0), (0, TAP_ROWS - taps.shape[1]), (0, 0))),
        biases,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def first_pass(
    plan: Plan, strips: jax.Array, weights: Weights, inside: jax.Array
) -> tuple[jax.Array, ...]:
    """The strips themselves and what `tksa_forward.compare` makes of them.

    What goes around the pass goes through it, so that its gradient is added in fast memory.
    """
    return strips, *compare(plan, strips, weights, inside)


def _forward(
    plan: Plan, strips: jax.Array, weights: Weights, inside: jax.Array
) -> tuple[tuple[jax.Array, ...], Any]:
    return first_pass(plan, strips, weights, inside), (strips, weights, inside)


def _backward(
    plan: Plan, residuals: Any, cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, Weights, None]:
    strips, weights, inside = residuals
    return *compare_gradient(plan, strips, cotangents, weights, inside), None


first_pass.defvjp(_forward, _backward)
