"""The block's two kernels, interpreted, against its layers in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models import drsformer
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import SparseTransformerBlock
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import RowShards
from drsformer_jax.ops.tpu import block_kernel, lanes, msfn_kernel, msfn_layout
from drsformer_jax.ops.tpu.msfn_layout import Layout

# Of LayerNorm: so large that it shows, and that no pixel of few channels is divided by nothing.
EPSILON = 0.1


def block_of(channels: int, hidden: int, heads: int, **config: Any) -> SparseTransformerBlock:
    """Of so many hidden channels; its attention is a smooth function."""
    factor = (hidden + 0.5) / channels
    config = DRSformerConfig(ffn_expansion_factor=factor, **config)
    return SparseTransformerBlock(config, heads, keeps_all=True)


def value_and_gradients(function: Any, params: Any, x: Any, cotangent: Any) -> Any:
    y, pull_back = jax.vjp(function, params, x)
    return y, pull_back(cotangent)


def check(
    shape: tuple[int, ...], block: SparseTransformerBlock, dtype: Any, tolerance: float
) -> None:
    """Value and all gradients, by their distance from float64."""
    rng = np.random.default_rng(shape[1])
    small = jax.ShapeDtypeStruct((1, shape[1], 8, 8), jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), Image(small))["params"]
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))),
        shapes,
    )
    x, cotangent = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))

    def layers(params: Any, x: Any) -> jax.Array:
        return block.apply({"params": params}, Image(x))[0].array

    def kernels(params: Any, x: Any) -> jax.Array:
        how = Execution(platform="tpu", kernels=("SparseTransformerBlock",))
        return block.apply({"params": params}, Image(x, how))[0].array

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda value: np.asarray(value, np.float64), (params, x, cotangent))
        expected = jax.jit(value_and_gradients, static_argnums=0)(layers, *wide)
    with lanes.interpreting():
        found = jax.jit(value_and_gradients, static_argnums=0)(kernels, params, x, cotangent)
    assert [leaf.dtype for leaf in (found[0], found[1][1])] == [dtype, dtype]
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, wanted), actual in zip(paths, jax.tree.leaves(found), strict=True):
        wanted = np.asarray(wanted)
        difference = np.linalg.norm(np.asarray(actual, np.float64) - wanted)
        assert difference <= tolerance * np.linalg.norm(wanted), path
