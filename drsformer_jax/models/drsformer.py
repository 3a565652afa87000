"""The whole network: a U-shape of sparse Transformer blocks between two feature compensators."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from drsformer_jax.models.attention import TopKSparseAttention, branch_sizes
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.feed_forward import MixedScaleFeedForward
from drsformer_jax.models.layers import (
    LAYER_NORM_EPSILON,
    Convolution,
    Downsampling,
    LayerNorm,
    Upsampling,
    form_of,
)
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.models.repeated import Params, repeated
from drsformer_jax.ops.image import Image, inside_of

SIZE_MULTIPLE = 8


class SparseTransformerBlock(nn.Module):
    """STB: x + TKSA(LN(x)), then x + MSFN(LN(x)) (CVPR 2023, section 3.1)."""

    config: DRSformerConfig
    heads: int
    keeps_all: bool = False

    @nn.compact
    def __call__(self, x: Image) -> tuple[Image, None]:
        """B C H W -> B C H W (and nothing, for the scan)."""
        attention = _attention(self)
        y = _by_form(SparseTransformerBlock, self, x, attention)
        if y is None:
            y = fed_forward(self, attended(self, x, attention))
        return y, None


class NormalisedAttention(nn.Module):
    """The first half of the block by itself, as TPU's kernel computes it."""

    config: DRSformerConfig
    heads: int
    keeps_all: bool = False

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """B C H W -> B C H W."""
        return attended(self, x, _attention(self))


class NormalisedFeedForward(nn.Module):
    """The second half of the block by itself, as TPU's kernel computes it."""

    config: DRSformerConfig

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """B C H W -> B C H W."""
        return fed_forward(self, x)


Block = SparseTransformerBlock | NormalisedAttention | NormalisedFeedForward


def attended(block: Block, x: Image, attention: TopKSparseAttention) -> Image:
    """x + TKSA(LN(x)), by the block's layers "norm1" and "attn"."""
    y = _by_form(NormalisedAttention, block, x, attention)
    return x + attention(_layer_norm(block, "norm1")(x)) if y is None else y


def fed_forward(block: Block, x: Image) -> Image:
    """x + MSFN(LN(x)), by the block's layers "norm2" and "ffn"."""
    if (y := _by_form(NormalisedFeedForward, block, x)) is not None:
        return y
    hidden = block.config.hidden_channels(x.channels)
    feed_forward = MixedScaleFeedForward(hidden, block.config.bias, name="ffn")
    return x + feed_forward(_layer_norm(block, "norm2")(x))


def _attention(block: SparseTransformerBlock | NormalisedAttention) -> TopKSparseAttention:
    return TopKSparseAttention(block.heads, block.config.bias, block.keeps_all, name="attn")


def _layer_norm(block: Block, name: str) -> LayerNorm:
    return LayerNorm(block.config.layer_norm_type == "WithBias", name=name)


def _by_form(
    part: type[Block], block: Block, x: Image, attention: TopKSparseAttention | None = None
) -> Image | None:
    """The block, or a half of it, in a form of its own; None where there is none that can."""
    form = form_of(block, x, part.__name__)
    if form is None:
        return None
    options: tuple[Any, ...] = ()
    if attention is not None:
        options = attention.heads, attention.ks(x.channels // attention.heads)
    y: Image | None = form(x, block.variables["params"], *options, LAYER_NORM_EPSILON)
    return y


class DRSformer(nn.Module):
    """The network on B C H W images whose height and width are multiples of 8."""

    config: DRSformerConfig

    @nn.compact
    def __call__(self, image: jax.Array, inside: jax.Array | None = None) -> jax.Array:
        """B C H W -> B C H W: the residual that `restore` adds to the image.

        inside: B 1 H W, see `ops.image`.
        """
        bias = self.config.bias
        c1, c2, c3, c4 = self.config.channels
        x = Image(image, self.config.execution, inside=inside)
        x = Convolution(c1, 3, name="patch_embed")(x)
        if self.config.use_mefc:
            x = FeatureCompensator(name="encoder_level0")(x)
        skip1 = self._level(x, 0, "encoder_level1")
        x = Downsampling(c2 // 4, 3, name="down1_2")(skip1)
        skip2 = self._level(x, 1, "encoder_level2")
        x = Downsampling(c3 // 4, 3, name="down2_3")(skip2)
        skip3 = self._level(x, 2, "encoder_level3")
        x = Downsampling(c4 // 4, 3, name="down3_4")(skip3)
        x = self._level(x, 3, "latent")
        x = Upsampling(c3 * 4, 3, name="up4_3")(x).beside(skip3)
        x = Convolution(c3, 1, bias, name="reduce_chan_level3")(x)
        x = self._level(x, 2, "decoder_level3")
        x = Upsampling(c2 * 4, 3, name="up3_2")(x).beside(skip2)
        x = Convolution(c2, 1, bias, name="reduce_chan_level2")(x)
        x = self._level(x, 1, "decoder_level2")
        # No reduction at full resolution: the last level works on twice the channels.
        x = Upsampling(c1 * 4, 3, name="up2_1")(x).beside(skip1)
        x = self._level(x, 0, "decoder_level1")
        if self.config.use_mefc:
            x = FeatureCompensator(name="refinement")(x)
        return Convolution(self.config.out_channels, 3, bias, name="output")(x).array

    def _level(self, x: Image, level: int, name: str) -> Image:
        """All blocks of a level."""
        length, heads = self.config.num_blocks[level], self.config.heads[level]
        if not x.how.is_unrolled:
            form = form_of(self, x, SparseTransformerBlock.__name__, many=True)
            if form is not None:
                stacked, ks = self.variables["params"][name], branch_sizes(x.channels // heads)
                y: Image | None = form(x, stacked, heads, ks, LAYER_NORM_EPSILON)
                if y is not None:
                    return y
        return repeated(self, name, length, SparseTransformerBlock, self.config, heads)(x)


def init_params(config: DRSformerConfig, rng: jax.Array) -> Params:
    """Fresh float32 parameters, distributed as PyTorch initialises the authors' module."""
    if isinstance(rng, jax.core.Tracer):  # under jit or eval_shape, the caller compiles it
        return _init(config, rng)
    return _compiled_init(config)(rng)


def param_shapes(config: DRSformerConfig) -> Params:
    """The parameters' shapes and dtypes (`jax.ShapeDtypeStruct`), as the tree of `init_params`.

    The first time that an architecture is asked for, the network is traced.
    """
    # However it is computed.
    return _traced(DRSformerConfig.from_architecture(config.architecture()))


@functools.cache
def _traced(config: DRSformerConfig) -> Params:
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(functools.partial(init_params, config), key)


def _init(config: DRSformerConfig, rng: jax.Array) -> Params:
    image = jnp.zeros((1, config.in_channels, SIZE_MULTIPLE, SIZE_MULTIPLE), jnp.float32)
    looped = dataclasses.replace(config, unroll=False)  # the same parameters, sooner compiled
    return DRSformer(looped).init(rng, image)["params"]


@functools.lru_cache(maxsize=16)
def _compiled_init(config: DRSformerConfig) -> Callable[[jax.Array], Params]:
    # It runs seldom: optimising the random number generators takes longer than all the rest.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(functools.partial(_init, config), compiler_options=options)


def restore(
    config: DRSformerConfig, params: Params, image: jax.Array, extent: jax.Array | None = None
) -> jax.Array:
    """Takes the rain out of images; a pure function of `params` and `image`.

    Args:
      config: the network; a static argument under jit.
      params: as from `init_params` or `blocks_apart`, float32 or (for parity) float64.
      image: B H W C, RGB in [0, 1], height and width multiples of 8. Where its rows are split
        over devices, the call stands inside `jax.shard_map` (with check_vma=False), and image is
        this device's band of them, `config.rows.band` rows high. The result is that of the whole
        image; in padding rows it means nothing.
      extent: int32 B 2, height and width of each picture, multiples of 8 and not larger than the
        array. The picture lies at the top left, and beyond it the array may hold anything. The
        result is that of the picture alone, sums rounded in another order; beyond it, it means
        nothing. One program so serves many sizes. None: the picture fills the array.

    Returns:
      B H W C in the dtype of `image`, not clamped.

    Raises:
      ValueError: the image has another rank, number of channels or a size not divisible by 8, or
        is no band of the rows; an extent of an image whose rows are split.
    """
    if image.ndim != 4 or image.shape[-1] != config.in_channels:
        raise ValueError(f"expected images B H W {config.in_channels}, not {image.shape}")
    if image.shape[1] % SIZE_MULTIPLE or image.shape[2] % SIZE_MULTIPLE:
        raise ValueError(f"height and width must be multiples of 8, not {image.shape[1:3]}")
    if config.rows is not None and image.shape[1] != config.rows.band:
        raise ValueError(f"expected a band of {config.rows.band} rows, not {image.shape[1]}")
    if config.rows is not None and extent is not None:
        raise ValueError("an image whose rows are split over devices fills its array: no extent")
    pixels = jnp.transpose(image, (0, 3, 1, 2))
    if config.dtype == "bfloat16":
        pixels = pixels.astype(jnp.bfloat16)
    inside = None
    if extent is not None:
        within = inside_of(extent, *image.shape[1:3])
        # Later it is multiplied: what is not a number would stay so.
        pixels, inside = jnp.where(within, pixels, 0), within.astype(pixels.dtype)
    residual: Any = DRSformer(config).apply({"params": params}, pixels, inside)
    return image + jnp.transpose(residual, (0, 2, 3, 1)).astype(image.dtype)
