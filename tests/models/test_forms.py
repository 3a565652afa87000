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
from drsformer_jax.ops.tpu import feed_forward, forms


def value_and_gradients(function: Any, params: Any, x: jax.Array) -> Any:
    y, pull_back = jax.vjp(function, params, x)
    cotangent = np.random.default_rng(5).normal(size=y.shape)
    return y, pull_back(jnp.asarray(cotangent, y.dtype))


def assert_same(actual: Any, expected: Any, tolerance: float) -> None:
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        limit = tolerance * max(1, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)


def dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


def example(module: nn.Module, shape: tuple[int, ...]) -> tuple[Any, np.ndarray]:
    """Parameters and an image, float32."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"]
    # Drawn here: the initialisers take long to compile.
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))),
        shapes,
    )
    return params, x


def check_module(module: nn.Module, shape: tuple[int, ...], **execution: Any) -> None:
    """A module on CPU and on TPU: values and gradients in float64, the value in float32."""
    arguments = example(module, shape)
    blocks, plain = (
        functools.partial(value_and_gradients, on_image(module, platform=name, **execution))
        for name in ("tpu", "cpu")
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, arguments)
        actual, expected = (jax.jit(function)(*wide) for function in (blocks, plain))
        assert dtypes(actual) == dtypes(expected)
        assert_same(actual, expected, 1e-12)
        check_float32(module, arguments, expected[0], **execution)


def check_float32(module: nn.Module, arguments: Any, expected: Any, **execution: Any) -> None:
    """The value on TPU against one of float64 or of CPU; of the gradients, the dtypes alone."""
    params, x = arguments
    apply = on_image(module, platform="tpu", **execution)
    y = jax.jit(apply)(params, x)
    assert_same(y, expected, 1e-5)
    found = jax.eval_shape(functools.partial(value_and_gradients, apply), params, x)
    assert dtypes((y, found)) == dtypes((x, (x, (params, x))))


def by_small_blocks(monkeypatch: pytest.MonkeyPatch, name: str, size: int) -> None:
    monkeypatch.setitem(forms.FORMS, name, functools.partial(forms.FORMS[name], size=size))


# One block that is not full, and several full ones.
@pytest.mark.parametrize(
    ("heads", "use_bias", "channels", "size"), [(1, False, 6, 8), (2, True, 8, 4)]
)
def test_attention(
    heads: int, use_bias: bool, channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_small_blocks(monkeypatch, "TopKSparseAttention", size)
    check_module(TopKSparseAttention(heads, use_bias), (2, channels, 5, 6))


def test_attention_in_whole_blocks() -> None:
    module = TopKSparseAttention(1)
    arguments = example(module, (2, 6, 5, 6))
    check_float32(module, arguments, jax.jit(on_image(module, platform="cpu"))(*arguments))


def test_attention_at_zero_has_finite_gradients() -> None:
    module = TopKSparseAttention(2)
    x = jnp.zeros((1, 8, 4, 4))
    params = jax.jit(module.init)(jax.random.key(0), Image(x))["params"]
    apply = on_image(module, platform="tpu")
    gradients = jax.jit(jax.grad(lambda p, x: jnp.sum(apply(p, x)), (0, 1)))(params, x)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(gradients))


def test_compensator(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, and the last one not full.
    by_small_blocks(monkeypatch, "FeatureCompensator", 8)
    check_module(FeatureCompensator(), (2, 3, 6, 4), unroll=False)


@pytest.mark.parametrize("height", [8, 5])
def test_block(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the forms are given by the network: MSFN's with squares of pixels, and without."""
    by_small_blocks(monkeypatch, "TopKSparseAttention", 16)
    # Several blocks, and those of squares in several parts.
    small = functools.partial(feed_forward.in_squares, size=16)
    monkeypatch.setattr(feed_forward, "in_squares", small)
    monkeypatch.setattr(feed_forward, "BLOCKS_AT_A_TIME", 1)
    config = DRSformerConfig(**TINY, bias=True, ffn_expansion_factor=0.6)
    module = SparseTransformerBlock(config, 2)
    arguments = example(module, (2, config.channels[1], height, 4))
    check_float32(module, arguments, jax.jit(on_image(module, platform="cpu"))(*arguments))


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
