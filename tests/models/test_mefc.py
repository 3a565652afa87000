"""The mixture-of-experts feature compensator against the PyTorch module, and its parts."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reference.parity import (
    assert_trees_close,
    gradients_of,
    network_tree,
    torch_network,
    torch_results,
    value_and_gradients,
    weights_of,
)
from reference.small import TINY, on_image

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.mefc import (
    EXPERTS,
    REACH,
    STEPS,
    FeatureCompensator,
    Gate,
    MixtureStep,
)
from drsformer_jax.ops.image import Image

CONFIG = DRSformerConfig(**TINY)
CHANNELS = CONFIG.dim

Results = tuple[Any, Any, Any]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gate_is_a_softmax_over_experts_in_float32(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, CHANNELS, 4, 5)), dtype)
    shapes = jax.eval_shape(Gate().init, jax.random.key(0), Image(x))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    weights = np.asarray(jax.jit(Gate().apply)(variables, Image(x)))
    assert weights.shape == (3, STEPS, EXPERTS)
    assert weights.dtype == np.float32
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((3, STEPS)), rtol=1e-6)
    assert weights.std(axis=0).max() > 1e-3  # each image has its own


@pytest.fixture(scope="module")
def params() -> Any:
    tensors = weights_of(torch_network(CONFIG).double())
    return network_tree(tensors, CONFIG)["encoder_level0"]


@pytest.fixture(scope="module")
def example() -> tuple[np.ndarray, np.ndarray]:
    """Features and a cotangent, B C H W."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(2, CHANNELS, 6, 9)), rng.normal(size=(2, CHANNELS, 6, 9))


@pytest.fixture(scope="module")
def looped() -> Any:
    """(params, x, cotangent) -> value and gradients, compiled once."""
    module = FeatureCompensator()
    return value_and_gradients(on_image(module, unroll=False))


@pytest.fixture(scope="module")
def looped_results(looped: Any, params: Any, example: Any) -> Results:
    with jax.enable_x64(True):
        return looped(params, *example)


def test_agrees_with_pytorch(looped_results: Results, example: Any) -> None:
    """Values and gradients, with the merged matrices of ours and without them in the reference."""
    network = torch_network(CONFIG).double()
    expected, x_gradient = torch_results(network.encoder_level0, *example)
    gradients = network_tree(gradients_of(network), CONFIG)["encoder_level0"]
    assert_trees_close(looped_results, (expected, gradients, x_gradient), 1e-11)


def test_kept_for_the_gradient_it_is_the_same(
    looped_results: Results, params: Any, example: Any
) -> None:
    forward = jax.jit(on_image(FeatureCompensator(), unroll=False, remat=False))
    with jax.enable_x64(True):
        lowered = forward.lower(params, example[0])
        y = lowered.compile()(params, example[0])
    assert_trees_close(y, looped_results[0], 1e-12)
    assert "stablehlo.while" in lowered.as_text()


def test_steps_written_out(looped_results: Results, params: Any, example: Any) -> None:
    function = value_and_gradients(on_image(FeatureCompensator(), unroll=True))
    with jax.enable_x64(True):
        lowered = function.lower(params, *example)
        assert_trees_close(lowered.compile()(params, *example), looped_results, 1e-12)
    assert "stablehlo.while" not in lowered.as_text()


def test_float32(params: Any, example: Any, looped_results: Results) -> None:
    module = FeatureCompensator()
    forward = jax.jit(on_image(module, unroll=False))
    y = forward(jax.tree.map(np.float32, params), np.float32(example[0]))
    assert y.dtype == np.float32
    assert_trees_close(y, looped_results[0], 1e-5)


def test_bfloat16_features_stay_so_and_gradients_are_float32(params: Any) -> None:
    x = jax.ShapeDtypeStruct((2, CHANNELS, 6, 9), jnp.bfloat16)
    module = FeatureCompensator()
    function = value_and_gradients(on_image(module, unroll=False))
    y, gradients, x_gradient = jax.eval_shape(function, jax.tree.map(np.float32, params), x, x)
    assert y.dtype == x_gradient.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradients)} == {"float32"}


def test_zero_features(looped: Any, params: Any, example: Any) -> None:
    x, cotangent = np.zeros_like(example[0]), example[1]
    with jax.enable_x64(True):
        y, *gradients = looped(params, x, cotangent)
    assert (np.asarray(y) == 0).all()  # nothing in the body has a bias
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it reads the program for CPU")
def test_all_experts_share_one_padded_image() -> None:
    """Written down once for each, the padding is found to be the same by the compiler."""
    state, weights = Image(jnp.ones((1, CHANNELS, 16, 16))), jnp.ones((1, EXPERTS))
    params = jax.eval_shape(MixtureStep().init, jax.random.key(0), state, weights)
    step = jax.jit(lambda *arguments: MixtureStep().apply(*arguments)[0])
    text = step.lower(params, state, weights).compile().as_text()
    # One for the step's own image, one for each of the second convolutions but the 1x1.
    sizes = sorted(int(n) for n in re.findall(r"= f32\[1,\d+,(\d+),\d+\]\S* pad\(", text))
    assert sizes == [16 + 2 * reach for reach in (1, 2, 3, REACH)]
