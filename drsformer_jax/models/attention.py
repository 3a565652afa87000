"""Top-k sparse attention (TKSA; CVPR 2023, section 3.2)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from drsformer_jax.models.layers import (
    Convolution,
    DepthwiseConvolution,
    add_bias,
    at_least_float32,
    is_watched,
    uniform_fan_in,
)
from drsformer_jax.ops.attention_by_blocks import query_key_value_by_blocks
from drsformer_jax.ops.block_convolution import from_blocks
from drsformer_jax.ops.depthwise import Borders
from drsformer_jax.ops.l2_norm import global_cosines, l2_norm
from drsformer_jax.ops.platform import TPU, target
from drsformer_jax.ops.pointwise import pointwise_conv
from drsformer_jax.ops.rows import (
    RowShards,
    clear_outside,
    clear_padding,
    with_neighbours,
)
from drsformer_jax.ops.sparse_softmax import masked_softmax_mixture, top_k_masks

INITIAL_BRANCH_WEIGHT = 0.2


def branch_sizes(channels_per_head: int) -> tuple[int, int, int, int]:
    """The k of the four branches: 1/2, 2/3, 3/4 and 4/5 of the channels, rounded down."""
    c = channels_per_head
    return (int(c / 2), int(c * 2 / 3), int(c * 3 / 4), int(c * 4 / 5))


class AttendAndProject(nn.Module):
    """The 1x1 convolution behind attention, applied as conv(attention @ value).

    Both are linear in the channels, so the two small matrices are multiplied first and the image
    is read once.
    """

    use_bias: bool = False
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(self, attention: jax.Array, value: jax.Array) -> jax.Array:
        """attention B heads c c, value B C H W or in blocks B H W G L -> B C H W."""
        channels = attention.shape[1] * attention.shape[2]
        kernel = self.param("kernel", uniform_fan_in, (1, 1, channels, channels), jnp.float32)
        per_head = rearrange(kernel[0, 0], "(h i) d -> h i d", h=attention.shape[1])
        merged = jnp.einsum(
            "bhij,hid->bhjd", attention, per_head.astype(attention.dtype), precision=self.precision
        )
        merged = rearrange(merged, "b h j d -> b (h j) d")
        if value.ndim == 5:
            y = from_blocks(value, merged, self.precision)
            y = jnp.moveaxis(y.astype(value.dtype), -1, 1)
        else:
            y = pointwise_conv(value, merged, self.precision)
        return add_bias(self, y, channels) if self.use_bias else y


class TopKSparseAttention(nn.Module):
    """Attention between channels: the map is C/h x C/h, sums run over all pixels.

    rows: how the rows of the image are split over devices; None: they are not.
    platform: that the program is for, see `ops.platform`. In the form for TPU query, key and value
    are not modules' values: while these are captured, it is not taken.
    """

    heads: int
    use_bias: bool = False
    precision: lax.PrecisionLike = None
    rows: RowShards | None = None
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """B C H W -> B C H W."""
        channels = x.shape[1]
        options: dict[str, Any] = {"use_bias": self.use_bias, "precision": self.precision}
        if target(self.platform) == TPU and not is_watched(self):
            params = self.variables["params"]
            cosines, value = query_key_value_by_blocks(
                x,
                params["qkv"],
                params["qkv_dwconv"],
                self.heads,
                self.precision,
                rows=self.rows,
            )
            return AttendAndProject(**options, name="project_out")(self._mixture(cosines), value)
        project = Convolution(channels * 3, 1, **options, name="qkv")
        depthwise = DepthwiseConvolution(3, **options, platform=self.platform, name="qkv_dwconv")
        if self.rows is None:
            qkv = depthwise(project(x))
        else:
            # The neighbours' rows of x are a third of those of its projection.
            projected = project(with_neighbours(x, 1, self.rows))
            if self.use_bias:
                projected = clear_outside(projected, self.rows, 1)
            qkv = depthwise(projected, Borders(1, 0), has_halo=True)
        query, key, value = jnp.split(qkv, 3, axis=1)
        attention = self._attention_map(query, key)
        return AttendAndProject(**options, name="project_out")(attention, value)

    def _attention_map(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """B C H W twice -> B heads c c, in at least float32.

        A logit in bfloat16 would flip entries of the top-k masks, discontinuously.
        """
        if self.rows is not None:
            query, key = (clear_padding(image, self.rows) for image in (query, key))
        split = "b (head c) h w -> b head c (h w)"
        query = at_least_float32(rearrange(query, split, head=self.heads))
        key = at_least_float32(rearrange(key, split, head=self.heads))
        products = jnp.einsum("bhin,bhjn->bhij", query, key, precision=self.precision)
        if self.rows is not None:
            squares = jnp.sum(jnp.square(query), axis=-1), jnp.sum(jnp.square(key), axis=-1)
            return self._mixture(global_cosines(products, squares, self.rows))
        # Dividing the c x c products spares two passes over the pixels.
        return self._mixture(products / l2_norm(query)[..., :, None] / l2_norm(key)[..., None, :])

    def _mixture(self, cosines: jax.Array) -> jax.Array:
        """Products of normalised queries and keys, B heads c c -> the attention map."""
        temperature = self.param(
            "temperature", nn.initializers.ones, (self.heads, 1, 1), jnp.float32
        )
        branch_weights = [
            self.param(
                f"attn{i}", nn.initializers.constant(INITIAL_BRANCH_WEIGHT), (1,), jnp.float32
            )
            for i in range(1, 5)
        ]
        logits = cosines * temperature
        return masked_softmax_mixture(logits, branch_weights, self.choose(logits))

    def choose(self, logits: jax.Array) -> list[jax.Array]:
        """What each branch keeps of B heads c c: four masks, bool. Parity checks watch it."""
        return top_k_masks(logits, branch_sizes(logits.shape[-1]), self.platform)
