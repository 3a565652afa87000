"""Top-k sparse attention (TKSA; CVPR 2023, section 3.2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from drsformer_jax.models.layers import (
    Convolution,
    DepthwiseConvolution,
    bias_of,
    form_of,
    kernel_of,
)
from drsformer_jax.ops.attention_map import cosines_between, masked_softmax_mixture, top_k_masks
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image, mixed

INITIAL_BRANCH_WEIGHT = 0.2


def branch_sizes(channels_per_head: int) -> tuple[int, int, int, int]:
    """The k of the four branches: 1/2, 2/3, 3/4 and 4/5 of the channels, rounded down."""
    c = channels_per_head
    return (int(c / 2), int(c * 2 / 3), int(c * 3 / 4), int(c * 4 / 5))


class TopKSparseAttention(nn.Module):
    """Attention between channels: the map is C/h x C/h, sums run over all pixels.

    keeps_all: all branches keep all entries, so that two roundings of one map are never far apart.
    """

    heads: int
    use_bias: bool = False
    keeps_all: bool = False

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """B C H W -> B C H W."""
        cosines, value = self.compare(x)
        attention = self.attention_map(cosines, x.how)
        return AttendAndProject(self.use_bias, name="project_out")(attention, value)

    def compare(self, x: Image) -> tuple[jax.Array, Image]:
        """Cosines between queries and keys, B heads c c in at least float32; and the values."""
        if form := form_of(self, x):
            return form(x, self.variables["params"], self.heads)
        # The 3x3 convolution looks around at x: it has a third of the channels.
        x = x.look_around(1)
        qkv = Convolution(3 * x.channels, 1, self.use_bias, name="qkv")(x)
        qkv = DepthwiseConvolution(3, use_bias=self.use_bias, name="qkv_dwconv")(qkv)
        query, key, value = qkv.parts(3)
        return cosines_between(query, key, self.heads), value

    def attention_map(self, cosines: jax.Array, how: Execution) -> jax.Array:
        """sum_i w_i softmax(the k_i largest logits of each row), B heads c c."""
        temperature = self.param(
            "temperature", nn.initializers.ones, (self.heads, 1, 1), jnp.float32
        )
        initial = nn.initializers.constant(INITIAL_BRANCH_WEIGHT)
        weights = [self.param(f"attn{i}", initial, (1,), jnp.float32) for i in range(1, 5)]
        logits = cosines * temperature
        return masked_softmax_mixture(logits, weights, self.choose(logits, how))

    def ks(self, channels_per_head: int) -> tuple[int, ...]:
        """How many entries of each row the branches keep."""
        sizes = branch_sizes(channels_per_head)
        return (channels_per_head,) * len(sizes) if self.keeps_all else sizes

    def choose(self, logits: jax.Array, how: Execution) -> list[jax.Array]:
        """What each branch keeps of B heads c c: four masks, bool. Parity checks watch it."""
        return top_k_masks(logits, self.ks(logits.shape[-1]), how.platform)


class AttendAndProject(nn.Module):
    """The 1x1 convolution behind attention, applied as conv(attention @ value).

    Both are linear in the channels, so the two small matrices are multiplied first and the image
    is read once.
    """

    use_bias: bool = False

    @nn.compact
    def __call__(self, attention: jax.Array, value: Image) -> Image:
        """attention B heads c c, value B C H W -> B C H W."""
        heads, channels = attention.shape[1], attention.shape[1] * attention.shape[2]
        kernel = kernel_of(self, 1, 1, channels, channels)
        per_head = rearrange(kernel[0, 0], "(h i) d -> h i d", h=heads).astype(attention.dtype)
        merged = value.how.einsum("bhij,hid->bhjd", attention, per_head)
        merged = rearrange(merged, "b h j d -> b (h j) d")
        mix = form_of(self, value) or mixed
        return mix(value, merged, bias_of(self, kernel) if self.use_bias else None)
