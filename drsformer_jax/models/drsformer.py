"""The whole network: a U-shape of sparse Transformer blocks between two feature compensators."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.models.attention import TopKSparseAttention
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.feed_forward import MixedScaleFeedForward
from drsformer_jax.models.layers import (
    STACKED,
    Convolution,
    Downsampling,
    LayerNorm,
    Upsampling,
    block_params,
)
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.outlining import outlined
from drsformer_jax.ops.platform import CPU, target
from drsformer_jax.ops.rows import RowShards

SIZE_MULTIPLE = 8

Params = dict[str, Any]


class SparseTransformerBlock(nn.Module):
    """STB: x + TKSA(LN(x)), then x + MSFN(LN(x)) (CVPR 2023, section 3.1)."""

    config: DRSformerConfig
    heads: int
    rows: RowShards | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """B C H W -> B C H W (and nothing, for the scan)."""
        config = self.config
        with_bias, platform = config.layer_norm_type == "WithBias", target(config.platform)
        options = {"use_bias": config.bias, **_execution(config, self.rows)}
        attention = TopKSparseAttention(self.heads, **options, name="attn")
        feed_forward = MixedScaleFeedForward(
            config.hidden_channels(x.shape[1]),
            **options,
            name="ffn",
        )
        x = x + attention(LayerNorm(with_bias, platform, name="norm1")(x))
        x = x + feed_forward(LayerNorm(with_bias, platform, name="norm2")(x))
        return x, None


@functools.lru_cache(maxsize=64)
def _outlined_block(
    config: DRSformerConfig, heads: int, rows: RowShards | None
) -> Callable[[Params, jax.Array], jax.Array]:
    """A block as a function of its parameters and image: each use is a call, compiled once."""
    block = SparseTransformerBlock(config, heads, rows)
    return outlined(lambda params, x: block.apply({"params": params}, x)[0])


class DRSformer(nn.Module):
    """The network on B C H W images whose height and width are multiples of 8.

    rows: how the rows of the images are split over devices, see `ops.rows`; None: they are not.
    """

    config: DRSformerConfig
    rows: RowShards | None = None

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """B C H W -> B C H W: the residual that `restore` adds to the image."""
        c1, c2, c3, c4 = self.config.channels
        x = self._convolution(image, c1, 3, "patch_embed", use_bias=False)
        if self.config.use_mefc:
            x = self._compensator(x, "encoder_level0")
        skip1 = self._level(x, 0, "encoder_level1")
        skip2 = self._level(self._down(skip1, c2, "down1_2"), 1, "encoder_level2")
        skip3 = self._level(self._down(skip2, c3, "down2_3"), 2, "encoder_level3")
        x = self._level(self._down(skip3, c4, "down3_4"), 3, "latent")
        x = jnp.concatenate([self._up(x, c3, "up4_3"), skip3], axis=1)
        x = self._convolution(x, c3, 1, "reduce_chan_level3")
        x = self._level(x, 2, "decoder_level3")
        x = jnp.concatenate([self._up(x, c2, "up3_2"), skip2], axis=1)
        x = self._convolution(x, c2, 1, "reduce_chan_level2")
        x = self._level(x, 1, "decoder_level2")
        # No reduction at full resolution: the last level works on twice the channels.
        x = jnp.concatenate([self._up(x, c1, "up2_1"), skip1], axis=1)
        x = self._level(x, 0, "decoder_level1")
        if self.config.use_mefc:
            x = self._compensator(x, "refinement")
        return self._convolution(x, self.config.out_channels, 3, "output")

    def _convolution(
        self, x: jax.Array, features: int, size: int, name: str, use_bias: bool | None = None
    ) -> jax.Array:
        use_bias = self.config.bias if use_bias is None else use_bias
        return Convolution(
            features, size, use_bias, **_execution(self.config, self.rows), name=name
        )(x)

    def _down(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        """B C H W -> B `channels` H/2 W/2."""
        return Downsampling(channels // 4, 3, **_execution(self.config, self.rows), name=name)(x)

    def _up(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        """B C H W -> B `channels` 2H 2W."""
        return Upsampling(channels * 4, 3, **_execution(self.config, self.rows), name=name)(x)

    def _level(self, x: jax.Array, level: int, name: str) -> jax.Array:
        """All blocks of a level; their parameters are stacked along the leading axis."""
        config, heads = self.config, self.config.heads[level]
        if unrolls_blocks(config) and not self.is_initializing():
            outlined_block = _outlined_block(config, heads, self.rows)
            stacked = self.variables["params"][name]
            for i in range(config.num_blocks[level]):
                x = outlined_block(block_params(stacked, i), x)
            return x
        block = SparseTransformerBlock
        if recomputes_blocks(config):
            # Inside a loop nothing can be merged across iterations.
            block = nn.remat(block, prevent_cse=False)
        scanned = nn.scan(
            block,
            variable_axes=STACKED,
            split_rngs={"params": True},
            length=config.num_blocks[level],
        )
        x, _ = scanned(config, heads, self.rows, name=name)(x)
        return x

    def _compensator(self, x: jax.Array, name: str) -> jax.Array:
        unroll, remat = unrolls_blocks(self.config), recomputes_blocks(self.config)
        return FeatureCompensator(unroll, remat, **_execution(self.config, self.rows), name=name)(x)


def _execution(config: DRSformerConfig, rows: RowShards | None) -> dict[str, Any]:
    """What nearly all modules take alike."""
    return {
        "precision": matmul_precision(config),
        "rows": rows,
        "platform": target(config.platform),
    }


def matmul_precision(config: DRSformerConfig) -> str | None:
    """The precision argument of products; None leaves it to JAX's own setting."""
    return None if config.precision == "default" else config.precision


def unrolls_blocks(config: DRSformerConfig) -> bool:
    """Whether blocks are written out; where the configuration leaves it open, on CPU only."""
    return target(config.platform) == CPU if config.unroll is None else config.unroll


def recomputes_blocks(config: DRSformerConfig) -> bool:
    """Whether loops over blocks run them again in the backward pass; left open, they do."""
    return config.remat is not False


def init_params(config: DRSformerConfig, rng: jax.Array) -> Params:
    """Fresh float32 parameters, distributed as PyTorch initialises the authors' module."""
    image = jnp.zeros((1, config.in_channels, SIZE_MULTIPLE, SIZE_MULTIPLE), jnp.float32)
    looped = dataclasses.replace(config, unroll=False)  # the same parameters, sooner compiled
    init = DRSformer(looped).init
    if not isinstance(rng, jax.core.Tracer):  # under jit or eval_shape, the caller compiles it
        # It runs once: optimising the random number generators takes longer than all the rest.
        init = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})
    return init(rng, image)["params"]


def blocks_apart(config: DRSformerConfig, params: Params) -> Params:
    """Parameters for a forward on CPU, the arrays of each block apart.

    Where blocks are written out, taking each one's parameters out of a stack is hundreds of small
    programs to compile: a third of the time that the forward takes to compile.

    Args:
      config: of the network.
      params: as from `init_params`; or apart already, which are left so.

    Returns:
      The parameters as `restore` takes them, too; the same ones where blocks are looped, or not on
      CPU.
    """
    if target(config.platform) != CPU or not unrolls_blocks(config):
        return params

    def apart(stacked: Any) -> Any:
        if isinstance(stacked, tuple):
            return stacked
        stacked = jax.tree.map(np.asarray, stacked)  # whose slices are no copies
        length = len(jax.tree.leaves(stacked)[0])
        return tuple(block_params(stacked, i) for i in range(length))

    found: Params = {}
    for name, part in params.items():
        children = part if isinstance(part, dict) else {}
        if "ffn" in children:  # a level
            found[name] = apart(part)
        elif "steps" in children:  # a compensator
            found[name] = {**part, "steps": apart(part["steps"])}
        else:
            found[name] = part
    return found


def restore(
    config: DRSformerConfig, params: Params, image: jax.Array, rows: RowShards | None = None
) -> jax.Array:
    """Takes the rain out of images; a pure function of `params` and `image`.

    Args:
      config: the network; a static argument under jit.
      params: as from `init_params` or `blocks_apart`, float32 or (for parity) float64.
      image: B H W C, RGB in [0, 1], height and width multiples of 8.
      rows: how the rows of the images are split over devices; then the call stands inside
        `jax.shard_map` (with check_vma=False), and image is this device's band of them, `rows.band`
        rows high. The result is that of the whole image; in padding rows it means nothing.

    Returns:
      B H W C in the dtype of `image`, not clamped.

    Raises:
      ValueError: the image has another rank, number of channels or a size not divisible by 8, or
        is no band of the rows.
    """
    if image.ndim != 4 or image.shape[-1] != config.in_channels:
        raise ValueError(f"expected images B H W {config.in_channels}, not {image.shape}")
    if image.shape[1] % SIZE_MULTIPLE or image.shape[2] % SIZE_MULTIPLE:
        raise ValueError(f"height and width must be multiples of 8, not {image.shape[1:3]}")
    if rows is not None and image.shape[1] != rows.band:
        raise ValueError(f"expected a band of {rows.band} rows, not {image.shape[1]}")
    inside = jnp.transpose(image, (0, 3, 1, 2))
    if config.dtype == "bfloat16":
        inside = inside.astype(jnp.bfloat16)
    residual: Any = DRSformer(config, rows).apply({"params": params}, inside)
    return image + jnp.transpose(residual, (0, 2, 3, 1)).astype(image.dtype)
