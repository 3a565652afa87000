"""TKSA's kernels, interpreted, against the module's layers in float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models.attention import branch_sizes
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import NormalisedAttention
from drsformer_jax.models.layers import LAYER_NORM_EPSILON
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import lanes, tksa_kernel

FOR_TPU = Execution(platform="tpu")


def results(function: Any, params: Any, x: Any, dtype: Any) -> Any:
    """Value and gradients."""

    def run(params: Any, x: jax.Array) -> Any:
        y, pull_back = jax.vjp(function, params, x)
        cotangent = np.random.default_rng(1).normal(size=y.shape)
        return y, pull_back(jnp.asarray(cotangent, y.dtype))

    return jax.jit(run)(*jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, x)))


def by_kernel(params: Any, x: jax.Array, heads: int) -> jax.Array:
    ks = branch_sizes(x.shape[1] // heads)
    arguments = Image(x, FOR_TPU), params, heads, ks, LAYER_NORM_EPSILON
    assert tksa_kernel.why_not(*arguments) is None
    return tksa_kernel.attention_by_kernel(*arguments).array


def cut_to(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast memory that holds so many rows."""

    def bytes_of(plan: Any, _: int) -> int:
        return 0 if plan.tiles.height <= strip else 2**40

    monkeypatch.setattr(tksa_kernel, "_bytes_of", bytes_of)


@pytest.mark.parametrize(
    ("channels", "heads", "bias", "with_bias", "strip"),
    # One group of heads, the whole image; two groups, the second not full, in strips.
    [(10, 2, False, False, 16), (150, 3, True, True, 8)],
)
def test_values_and_gradients(
    channels: int,
    heads: int,
    bias: bool,
    with_bias: bool,
    strip: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_to(strip, monkeypatch)
    config = DRSformerConfig(bias=bias, layer_norm_type="WithBias" if with_bias else "BiasFree")
    module = NormalisedAttention(config, heads)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, channels, 16, 8)) + 0.5
    shapes = jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0.2, 0.5, leaf.shape), shapes)

    def plain(params: Any, x: jax.Array) -> jax.Array:
        return module.apply({"params": params}, Image(x)).array

    with jax.enable_x64(True):
        expected = results(plain, params, x, "float64")
    with lanes.interpreting():
        actual = results(functools.partial(by_kernel, heads=heads), params, x, "float32")
    paths = jax.tree_util.tree_flatten_with_path(expected)[0]
    for (path, one), other in zip(paths, jax.tree.leaves(actual), strict=True):
        limit = 1e-5 * float(np.abs(one).max())
        np.testing.assert_allclose(other, one, rtol=0, atol=limit, err_msg=str(path))
