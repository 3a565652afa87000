"""The whole network against the PyTorch module, in every form it is computed in."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.extend.core import jaxprs_in_params
from reference.parity import (
    assert_trees_close,
    gradients_of,
    network_tree,
    selection_margin,
    torch_network,
    torch_results,
    value_and_gradients,
    weights_of,
)
from reference.small import TINY

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import (
    DRSformer,
    init_params,
    restore,
)
from drsformer_jax.models.layers import Convolution, Downsampling, Upsampling
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.image import Image

# Compiling is what takes the time here, so there are two networks only: one with every tensor
# that an option can add, one without any of them. `test_full_size` has the paper's own.
BIASED = DRSformerConfig(**TINY, bias=True, unroll=False)
PLAIN = dataclasses.replace(BIASED, bias=False, use_mefc=False, layer_norm_type="BiasFree")

AS_FOR_USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


def channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def channels_last(image: np.ndarray) -> np.ndarray:
    return image.transpose(0, 2, 3, 1)


def params_of(network: torch.nn.Module, config: DRSformerConfig) -> Any:
    return network_tree(weights_of(network), config)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Two images, not square; float64."""
    return np.random.default_rng(0).uniform(size=(2, 16, 24, 3))


@functools.cache
def single_precision_program(config: DRSformerConfig) -> Any:
    return jax.jit(functools.partial(restore, config))


class TestForward:
    def test_float32(self, image: np.ndarray) -> None:
        network = torch_network(PLAIN)
        rounded = np.float32(image)
        source = torch.from_numpy(channels_first(rounded))
        assert selection_margin(network, source) > 2e-6
        with torch.no_grad():
            expected = channels_last(network(source).numpy())
        actual = single_precision_program(PLAIN)(params_of(network, PLAIN), rounded)
        assert actual.dtype == np.float32
        assert np.abs(expected - rounded).mean() > 1e-2
        assert np.abs(actual - expected).max() <= 1e-5

    def test_bfloat16(self, image: np.ndarray) -> None:
        """Near the float32 result, on float32 parameters, from and to float32 images."""
        params, rounded = params_of(torch_network(PLAIN), PLAIN), np.float32(image)
        precise = np.asarray(single_precision_program(PLAIN)(params, rounded))
        half = dataclasses.replace(PLAIN, dtype="bfloat16")
        actual = single_precision_program(half)(params, rounded)
        assert actual.dtype == np.float32
        error = np.sqrt(np.mean((actual - precise) ** 2))
        assert 1e-5 < error < 0.1 * np.sqrt(np.mean((precise - rounded) ** 2))

    @pytest.mark.parametrize("shape", [(1, 12, 16, 3), (1, 16, 20, 3)])
    def test_sizes_must_be_multiples_of_8(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="height and width must be multiples of 8"):
            restore(PLAIN, {}, jnp.zeros(shape))

    @pytest.mark.parametrize("shape", [(16, 16, 3), (1, 16, 16, 1), (1, 3, 16, 16)])
    def test_images_must_be_batches_of_rgb(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected images B H W 3"):
            restore(PLAIN, {}, jnp.zeros(shape))


def parameters_of(jaxpr: Any, primitive: str) -> Iterator[dict[str, Any]]:
    """Of all uses of a primitive, those in loops and calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation.params
        for inner in jaxprs_in_params(equation.params):
            yield from parameters_of(inner, primitive)


def assert_no_grouped_convolution(jaxpr: Any) -> None:
    """XLA is slow at them, or gathers the whole batch."""
    convolutions = list(parameters_of(jaxpr.jaxpr, "conv_general_dilated"))
    assert convolutions
    for name in ("batch_group_count", "feature_group_count"):
        assert {parameters[name] for parameters in convolutions} == {1}


@dataclasses.dataclass(frozen=True)
class GradientProgram:
    """Value and gradients of the biased network in float64, traced and compiled once."""

    traced: Any
    compiled: Any
    network: torch.nn.Module
    params: Any
    cotangent: np.ndarray

    def __call__(self, params: Any, image: np.ndarray) -> Any:
        """Value, gradients for params, gradient for the image; float64."""
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, self.compiled(params, image, self.cotangent))


@pytest.fixture(scope="module")
def program(image: np.ndarray) -> GradientProgram:
    network = torch_network(BIASED).double()
    params = params_of(network, BIASED)
    cotangent = np.random.default_rng(1).normal(size=image.shape)
    with jax.enable_x64(True):
        function = value_and_gradients(functools.partial(restore, BIASED))
        traced = function.trace(params, image, cotangent)
        compiled = traced.lower().compile()
    return GradientProgram(traced, compiled, network, params, cotangent)


class TestGradients:
    def test_all_agree_with_pytorch(self, program: GradientProgram, image: np.ndarray) -> None:
        expected, x_gradient = torch_results(
            program.network, channels_first(image), channels_first(program.cotangent)
        )
        gradients = network_tree(gradients_of(program.network), BIASED)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))
        y, *actual = program(program.params, image)
        assert np.abs(y - channels_last(expected)).max() <= 1e-11
        assert_trees_close(actual, [gradients, channels_last(x_gradient)], 1e-9)

    @pytest.mark.parametrize("biases", [True, False], ids=["biases", "zero biases"])
    @pytest.mark.parametrize("value", [0.0, 0.5])
    def test_flat_images_give_numbers(
        self, program: GradientProgram, image: np.ndarray, value: float, biases: bool
    ) -> None:
        """Zero vectors to normalise, and attention maps in which all entries are equal."""

        def without_bias(path: Any, leaf: np.ndarray) -> np.ndarray:
            return leaf if biases or path[-1].key != "bias" else np.zeros_like(leaf)

        params = jax.tree_util.tree_map_with_path(without_bias, program.params)
        flat = np.full_like(image, value)
        y, *gradients = program(params, flat)
        assert np.isfinite(y).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
        if value == 0 and not biases:
            assert (np.asarray(y) == 0).all()

    def test_it_is_a_pure_function(self, program: GradientProgram) -> None:
        assert program.traced.jaxpr.effects == set()

    def test_no_grouped_convolution(self, program: GradientProgram) -> None:
        """Neither forward nor backward; for other platforms: `test_one_of_every_layer`."""
        assert_no_grouped_convolution(program.traced.jaxpr)


class SecondLevel(DRSformer):
    """The two blocks of encoder_level2 alone."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self._level(Image(x, self.config.execution), 1, "encoder_level2").array


class TestLevel:
    CONFIG = dataclasses.replace(PLAIN, bias=True)
    SHAPE = (2, 2 * PLAIN.dim, 5, 6)

    def execute(self, **execution: Any) -> Any:
        module = SecondLevel(dataclasses.replace(self.CONFIG, **execution))
        return lambda params, x: module.apply({"params": {"encoder_level2": params}}, x)

    def params(self, network: torch.nn.Module) -> Any:
        return params_of(network, self.CONFIG)["encoder_level2"]

    @pytest.mark.parametrize(("unroll", "remat"), [(True, False), (False, True)])
    def test_every_way_of_execution_agrees_with_pytorch(self, unroll: bool, remat: bool) -> None:
        """One parameter layout, and the same values and gradients; looped: `TestGradients`.

        Written out as users compile it, with all of XLA's optimisation; the rest as conftest says.
        """
        rng = np.random.default_rng(2)
        x, cotangent = rng.normal(size=self.SHAPE), rng.normal(size=self.SHAPE)
        network = torch_network(self.CONFIG).double()
        expected, x_gradient = torch_results(network.encoder_level2, x, cotangent)
        gradients = network_tree(gradients_of(network), self.CONFIG)["encoder_level2"]
        with jax.enable_x64(True):
            function = value_and_gradients(self.execute(unroll=unroll, remat=remat))
            traced = function.trace(self.params(network), x, cotangent)
            lowered = traced.lower()
            compiled = lowered.compile(compiler_options=AS_FOR_USERS if unroll else None)
            actual = compiled(self.params(network), x, cotangent)
        assert_trees_close(actual, (expected, gradients, x_gradient), 1e-11)
        assert ("remat" in str(traced.jaxpr) or "checkpoint[" in str(traced.jaxpr)) == remat

    @pytest.mark.parametrize("unroll", [False, True])
    def test_unrolled_blocks_leave_no_loop(self, unroll: bool) -> None:
        params = self.params(torch_network(self.CONFIG))
        forward = jax.jit(self.execute(unroll=unroll))
        text = forward.trace(params, jnp.zeros(self.SHAPE)).lower().as_text()
        assert text.count("stablehlo.while") == (0 if unroll else 1)

    def test_bfloat16_activations_and_float32_gradients(self) -> None:
        params = self.params(torch_network(self.CONFIG))
        x = jax.ShapeDtypeStruct(self.SHAPE, jnp.bfloat16)
        function = value_and_gradients(self.execute(dtype="bfloat16"))
        y, gradients, x_gradient = jax.eval_shape(function, params, x, x)
        assert y.dtype == x_gradient.dtype == jnp.bfloat16
        assert {leaf.dtype.name for leaf in jax.tree.leaves(gradients)} == {"float32"}

    def test_blocks_start_differently(self) -> None:
        module = SecondLevel(self.CONFIG)
        params = jax.jit(module.init)(jax.random.key(0), jnp.zeros(self.SHAPE))["params"]
        kernel = params["encoder_level2"]["ffn"]["project_in"]["kernel"]
        assert kernel.shape[0] == 2
        assert np.abs(kernel[0] - kernel[1]).max() > 0.1 / np.sqrt(2 * PLAIN.dim)


class OneOfEveryLayer(DRSformer):
    """All that the network is made of, once."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Convolution(self.config.dim, 3)(Image(x, self.config.execution))
        y = Downsampling(self.config.dim // 2, 3)(FeatureCompensator()(y))
        y = Upsampling(self.config.dim * 4, 3)(self._level(y, 1, "encoder_level2"))
        return Convolution(3, 1, use_bias=True)(y).array


def asked() -> str:
    """In the place of `jax.default_backend`."""
    raise AssertionError("asked for the platform of this machine")


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_one_of_every_layer(platform: str, unroll: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No grouped convolution, and no operation asks: it would get the machine that compiles."""
    # Of its own, so that nothing was traced before.
    config = dataclasses.replace(
        BIASED, platform=platform, unroll=unroll, ffn_expansion_factor=2.25
    )
    x, module = np.zeros((1, 3, 8, 12), np.float32), OneOfEveryLayer(config)
    monkeypatch.setattr(jax, "default_backend", asked)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(module.apply({"params": params}, x) ** 2)

    gradient = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, x)
    assert_no_grouped_convolution(gradient)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_the_network_hands_the_platform_on(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(BIASED, platform=platform, ffn_expansion_factor=2.25)
    params = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    monkeypatch.setattr(jax, "default_backend", asked)
    image = jax.ShapeDtypeStruct((1, 16, 24, 3), jnp.float32)
    forward = jax.make_jaxpr(functools.partial(restore, config))(params, image)
    assert_no_grouped_convolution(forward)
