"""The form for TPU of every module, computed on CPU, against the plain one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.small import TINY, on_image

from drsformer_jax.models.attention import TopKSparseAttention
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import (
    NormalisedAttention,
    NormalisedFeedForward,
    SparseTransformerBlock,
    init_params,
    restore,
)
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import forms

TOLERANCES = [(jnp.float64, 1e-12), (jnp.float32, 1e-5)]


def value_and_gradients(function: Any, params: Any, x: jax.Array) -> Any:
    y, pull_back = jax.vjp(function, params, x)
    cotangent = np.random.default_rng(5).normal(size=y.shape)
    return y, pull_back(jnp.asarray(cotangent, y.dtype))


def assert_same(one: Any, other: Any, params: Any, x: jax.Array, tolerance: float) -> None:
    """Two functions of (params, x)."""
    results = [jax.jit(function)(params, x) for function in (one, other)]
    for actual, expected in zip(*map(jax.tree.leaves, results), strict=True):
        assert actual.dtype == expected.dtype
        limit = tolerance * max(1, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def check_module(
    module: nn.Module, shape: tuple[int, ...], dtype: Any, tolerance: float, **execution: Any
) -> None:
    """A module on CPU and on TPU: values and gradients; in float32, the gradients' dtypes alone."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
        params = jax.jit(module.init)(jax.random.key(0), Image(x))["params"]
        params = jax.tree.map(lambda value: value.astype(dtype), params)
        apply = [on_image(module, platform=name, **execution) for name in ("tpu", "cpu")]
        both = [functools.partial(value_and_gradients, function) for function in apply]
        assert_same(*(both if dtype == jnp.float64 else apply), params, x, tolerance)
        blocks, plain = (jax.eval_shape(function, params, x) for function in both)
        assert jax.tree.map(lambda leaf: leaf.dtype, blocks) == jax.tree.map(
            lambda leaf: leaf.dtype, plain
        )


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(("heads", "use_bias", "channels"), [(1, False, 6), (2, True, 8)])
def test_attention(
    heads: int,
    use_bias: bool,
    channels: int,
    dtype: Any,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whole blocks, and small ones.
    if heads > 1:
        by_blocks = functools.partial(forms.FORMS["TopKSparseAttention"], size=4)
        monkeypatch.setitem(forms.FORMS, "TopKSparseAttention", by_blocks)
    check_module(TopKSparseAttention(heads, use_bias), (2, channels, 5, 6), dtype, tolerance)


def test_attention_at_zero_has_finite_gradients() -> None:
    module = TopKSparseAttention(2)
    x = jnp.zeros((1, 8, 4, 4))
    params = jax.jit(module.init)(jax.random.key(0), Image(x))["params"]
    apply = on_image(module, platform="tpu")
    gradients = jax.jit(jax.grad(lambda p, x: jnp.sum(apply(p, x)), (0, 1)))(params, x)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_compensator(dtype: Any, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, and the last one not full.
    by_blocks = functools.partial(forms.FORMS["FeatureCompensator"], size=8)
    monkeypatch.setitem(forms.FORMS, "FeatureCompensator", by_blocks)
    check_module(FeatureCompensator(), (2, 3, 6, 4), dtype, tolerance, unroll=False)


@pytest.mark.parametrize("height", [8, 5])
def test_block(height: int) -> None:
    """What the forms are given by the network: MSFN's with squares of pixels, and without."""
    config = DRSformerConfig(**TINY, bias=True)
    shape = (2, config.channels[1], height, 4)
    check_module(SparseTransformerBlock(config, 2), shape, jnp.float32, 1e-5)


@pytest.mark.slow  # what it is made of is above
def test_network() -> None:
    config = DRSformerConfig(**TINY | {"use_mefc": False}, unroll=False)
    params = init_params(config, jax.random.key(0))
    image = np.random.default_rng(0).random((2, 16, 8, 3), np.float32)
    results = [
        jax.jit(
            functools.partial(
                restore, dataclasses.replace(config, platform=platform, kernels="off")
            )
        )(params, image)
        for platform in ("cpu", "tpu")
    ]
    assert np.abs(results[0] - image).max() > 1e-3
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5)


def test_watched_values_are_those_of_modules() -> None:
    """Parity checks see every layer, also where the network would be computed in blocks."""
    module = TopKSparseAttention(2)
    x = Image(jnp.ones((1, 8, 4, 4)), Execution(platform="tpu"))
    apply = functools.partial(module.apply, capture_intermediates=True, mutable=["intermediates"])
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    _, captured = jax.eval_shape(apply, variables, x)
    assert "qkv_dwconv" in captured["intermediates"]


@pytest.mark.parametrize(
    ("module", "channels", "name"),
    [
        (FeatureCompensator(), 8, "mefc"),
        (NormalisedAttention(DRSformerConfig(**TINY), 2), 16, "tksa"),
        (NormalisedFeedForward(DRSformerConfig(**TINY)), 16, "msfn"),
        (SparseTransformerBlock(DRSformerConfig(**TINY), 2), 16, "tksa"),
        (SparseTransformerBlock(DRSformerConfig(**TINY), 2), 16, "msfn"),
    ],
)
def test_kernels_are_taken_where_they_can_compute_it(
    module: nn.Module, channels: int, name: str
) -> None:
    params = jax.eval_shape(module.init, jax.random.key(0), Image(jnp.ones((1, channels, 8, 8))))

    def program(width: int, kernels: Any) -> tuple[str, list[str]]:
        apply = on_image(module, platform="tpu", kernels=kernels)
        with forms.refusals() as reasons:
            x = jax.ShapeDtypeStruct((1, channels, 8, width), jnp.float32)
            return str(jax.make_jaxpr(apply)(params["params"], x)), reasons

    text, reasons = program(8, "on")
    assert f"name={name}_" in text
    assert reasons == []
    text, reasons = program(12, "on")
    assert f"name={name}_" not in text
    assert set(reasons) == {"12 columns, which are no multiple of 8"}
    assert "pallas_call" not in program(8, "off")[0]
