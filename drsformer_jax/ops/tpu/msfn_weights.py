"""The weights of the mixed-scale feed-forward network (MSFN) as a TPU's kernel takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.feed_forward import Layer, Path, framed, joined, paths_of
from drsformer_jax.ops.tpu.msfn_layout import SIZE, Layout


class Weights(NamedTuple):
    """What the kernel multiplies with, or its gradients.

    Attributes:
      norm: of LayerNorm, rows channels.
      expand: blocks kinds 2 images channels LANES, the two members of each pair apart.
      first, second: kernels of the convolutions, blocks kinds 2 TAPS LANES.
      project: blocks kinds images LANES channels.
    """

    norm: jax.Array
    expand: jax.Array
    first: jax.Array
    second: jax.Array
    project: jax.Array


def packed(params: Mapping[str, Any], layout: Layout) -> Weights:
    """The weights of the kernel, float32.

    params: "norm2" of `models.layers.LayerNorm`, "ffn" of `models.feed_forward`.
    """
    paths = paths_of(params["ffn"])
    kinds = [_merged([paths[i] for i in part]) for part in layout.grouping]
    each = [_packed_kind(path, layout) for path in kinds]
    stacked = (jnp.stack(arrays, axis=1) for arrays in zip(*each, strict=True))
    return Weights(layout.norm.packed(params["norm2"]), *stacked)


def weight_specs(weights: Weights, block: Callable[..., Any]) -> list[pl.BlockSpec]:
    """LayerNorm's whole, and of the others one block.

    block: which one, of the indices of a kernel's grid.
    """
    specs = [pl.BlockSpec(weights.norm.shape, lambda *_: (0, 0))]
    for weight in weights[1:]:
        zeros = [0] * (weight.ndim - 1)
        specs.append(
            pl.BlockSpec((1, *weight.shape[1:]), lambda *at, zeros=zeros: (block(*at), *zeros))
        )
    return specs


def _merged(paths: list[Path]) -> Path:
    """One path of all outputs."""
    first = paths[0]
    for path in paths[1:]:
        first = Path(
            joined(first.expand, path.expand),
            joined(_framed(first.depthwise), _framed(path.depthwise)),
            joined(_framed(first.pairs), _framed(path.pairs)),
            jnp.concatenate([first.project, path.project]),
        )
    return first


def _framed(layer: Layer) -> Layer:
    return layer._replace(kernel=framed(layer.kernel, SIZE))


def _packed_kind(path: Path, layout: Layout) -> list[jax.Array]:
    """Those of one kind, without the axis of kinds.

    Members of a pair come apart, and images to their lanes, in products with zeros and ones: there
    are 256 columns at a time, and nothing is as slow on TPU as an axis of two.
    """
    images, share, blocks = layout.images, layout.share, layout.blocks

    def in_blocks(x: jax.Array, columns: int) -> jax.Array:
        """The last axis filled and split: ... blocks columns."""
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * columns - x.shape[-1])])
        return x.reshape(*x.shape[:-1], blocks, columns)

    def taps(layer: Layer, expansion: jax.Array | None = None) -> jax.Array:
        """SIZE SIZE ... -> TAPS ..., biases behind; of two members they are the first one's."""
        kernel = framed(layer.kernel, SIZE)
        rows = [kernel.reshape(-1, *kernel.shape[2:])]
        for bias in (layer.bias, expansion):
            row = jnp.zeros(kernel.shape[2:], kernel.dtype)
            rows.append((row if bias is None else row.at[(0,) * (row.ndim - 1)].set(bias))[None])
        return jnp.concatenate(rows)

    lane, column = jnp.arange(LANES), jnp.arange(2 * share)[:, None]

    def member(x: jax.Array, which: int, image: int | None = None) -> jax.Array:
        """blocks N 2*share -> blocks N LANES: one of each pair, in the lanes of an image."""
        chosen = column == 2 * (lane % share) + which
        if image is not None:
            chosen = chosen & (lane // share == image)
        return jnp.einsum("bnj,jl->bnl", x, chosen.astype(x.dtype), precision=layout.packing)

    expand, first = (
        jnp.moveaxis(in_blocks(x, 2 * share), 1, 0)
        for x in (path.expand.kernel, taps(path.depthwise, path.expand.bias))
    )
    rows = jnp.moveaxis(in_blocks(path.project.T, share), 0, -1)  # blocks share D
    fills = [((0, 0), (i * share, LANES - (i + 1) * share), (0, 0)) for i in range(images)]
    second = jnp.transpose(in_blocks(taps(path.pairs), share), (2, 1, 0, 3))
    per_image = [
        jnp.stack([member(expand, which, i) for i in range(images)], axis=1) for which in range(2)
    ]
    return [
        jnp.stack(per_image, axis=1),
        jnp.stack([member(first, which) for which in range(2)], axis=1),
        jnp.tile(second, (1, 1, 1, images)),
        jnp.stack([jnp.pad(rows, fill) for fill in fills], axis=1),
    ]
