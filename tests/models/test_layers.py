"""Layers against PyTorch's and against their definitions."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from reference.parity import (
    assert_trees_close,
    part_tree,
    torch_results,
    value_and_gradients,
    weights_of,
)
from reference.small import on_image

from drsformer_jax.models.layers import (
    Convolution,
    DepthwiseConvolution,
    LayerNorm,
    pixel_shuffle,
    pixel_unshuffle,
    uniform_fan_in,
    uniform_within,
)
from drsformer_jax.ops.image import Image
from drsformer_jax.parity.torch_drsformer import conv

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 6, 5, 7


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def normalised(x: np.ndarray, with_bias: bool) -> np.ndarray:
    """Each pixel by itself, in float64; x is B C H W."""
    y = np.zeros(x.shape)
    for image, row, column in np.ndindex(x.shape[0], *x.shape[2:]):
        pixel = x[image, :, row, column].astype(np.float64)
        mean = pixel.sum() / len(pixel)
        deviation = math.sqrt(((pixel - mean) ** 2).sum() / len(pixel) + 1e-5)
        y[image, :, row, column] = (pixel - mean if with_bias else pixel) / deviation
    return y


@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm(with_bias: bool) -> None:
    x = draw(BATCH, CHANNELS, HEIGHT, WIDTH) + 0.5
    params = {"scale": draw(CHANNELS, seed=1), "bias": draw(CHANNELS, seed=2)}
    expected = normalised(x, with_bias) * params["scale"][:, None, None]
    if with_bias:
        expected += params["bias"][:, None, None]
    else:
        del params["bias"]  # it must not be asked for
    with jax.enable_x64(True):
        y = on_image(LayerNorm(with_bias))(params, jnp.asarray(x))
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm_is_two_pass(with_bias: bool) -> None:
    """The mean of squares less the square of the mean would lose all digits here."""
    x = np.float32(3000 + draw(1, 48, 3, 4))
    params = {"scale": jnp.ones(48), "bias": jnp.zeros(48)}
    y = on_image(LayerNorm(with_bias))(params, jnp.asarray(x))
    np.testing.assert_allclose(y, normalised(x, with_bias), rtol=1e-4, atol=5e-4)


def test_layer_norm_of_bfloat16_is_computed_in_float32() -> None:
    x = jnp.asarray(3 + draw(1, 48, 3, 4), jnp.bfloat16)
    params = {"scale": jnp.ones(48), "bias": jnp.zeros(48)}
    y = on_image(LayerNorm())(params, x)
    assert y.dtype == jnp.bfloat16
    expected = normalised(np.asarray(x, np.float64), True)
    # One rounding, of the result, and none before it.
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-6)


def test_layer_norm_of_equal_channels() -> None:
    params = {"scale": jnp.ones(4), "bias": jnp.full(4, 0.5)}
    x = jnp.full((1, 4, 2, 2), 0.7)
    np.testing.assert_allclose(on_image(LayerNorm())(params, x), np.full(x.shape, 0.5))


def test_pixel_shuffles_have_pytorchs_order() -> None:
    x = np.arange(2 * 8 * 4 * 6, dtype=np.float32).reshape(2, 8, 4, 6)
    small = torch.nn.functional.pixel_unshuffle(torch.from_numpy(x), 2).numpy()
    large = torch.nn.functional.pixel_shuffle(torch.from_numpy(x), 2).numpy()
    np.testing.assert_array_equal(pixel_unshuffle(jnp.asarray(x)), small)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(x)), large)
    np.testing.assert_array_equal(pixel_shuffle(pixel_unshuffle(jnp.asarray(x))), x)
    # Channel c * 4 + dy * 2 + dx of pixel (h, w) is channel c of pixel (2h + dy, 2w + dx).
    assert small[1, 5 * 4 + 1 * 2 + 0, 1, 2] == x[1, 5, 3, 4]


@pytest.mark.parametrize(
    ("layer", "reference"),
    [
        (Convolution(4, 1, use_bias=True), conv(CHANNELS, 4, 1, True)),
        (Convolution(4, 3, use_bias=True), conv(CHANNELS, 4, 3, True)),
        (Convolution(4, 3), conv(CHANNELS, 4, 3, False)),
        (
            DepthwiseConvolution(3, dilation=2, use_bias=True),
            conv(CHANNELS, CHANNELS, 3, True, groups=CHANNELS, dilation=2),
        ),
        (
            DepthwiseConvolution(5, members=2, use_bias=True),
            conv(CHANNELS, CHANNELS // 2, 5, True, groups=CHANNELS // 2),
        ),
    ],
    ids=["1x1", "3x3", "3x3-no-bias", "depthwise", "paired"],
)
def test_convolutions_agree_with_pytorch(layer: nn.Module, reference: torch.nn.Module) -> None:
    reference = reference.double()
    x = draw(BATCH, CHANNELS, HEIGHT, WIDTH)
    cotangent = draw(BATCH, reference.out_channels, HEIGHT, WIDTH, seed=1)
    expected, x_gradient = torch_results(reference, x, cotangent)
    params = part_tree(weights_of(reference))
    with jax.enable_x64(True):
        function = value_and_gradients(on_image(layer))
        actual = function(params, x, cotangent)
    gradients = part_tree({name: p.grad.numpy() for name, p in reference.named_parameters()})
    assert_trees_close(actual, (expected, gradients, x_gradient), 1e-13)


@pytest.mark.parametrize("shape", [(3, 3, 32, 40), (1, 1, 24, 500), (5, 5, 1, 600), (64, 200)])
def test_initial_kernels_have_pytorchs_range(shape: tuple[int, ...]) -> None:
    """Uniform within 1 / sqrt(fan_in), as kaiming_uniform with a = sqrt(5) gives it."""
    drawn = np.asarray(uniform_fan_in(jax.random.key(0), shape, jnp.float32))
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    assert drawn.shape == shape
    assert drawn.dtype == np.float32
    assert 0.99 * bound < np.abs(drawn).max() <= bound
    assert abs(drawn.mean()) < 0.03 * bound
    assert drawn.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_initial_range_is_pytorchs_own() -> None:
    layer = torch.nn.Conv2d(32, 40, 3, bias=True)
    ours = uniform_fan_in(jax.random.key(0), (3, 3, 32, 40), jnp.float32)
    assert float(jnp.abs(ours).max()) == pytest.approx(layer.weight.abs().max().item(), rel=0.01)
    biases = uniform_within(3 * 3 * 32)(jax.random.key(0), (4000,), jnp.float32)
    assert float(jnp.abs(biases).max()) >= layer.bias.abs().max().item() * 0.9
    assert float(jnp.abs(biases).max()) <= 1 / math.sqrt(3 * 3 * 32)


def test_biases_are_drawn_within_the_kernels_range() -> None:
    """PyTorch bounds a bias by the fan-in of its kernel, which the bias's shape does not show."""
    x = Image(jnp.zeros((1, 200, 2, 2)))
    cases = [
        (Convolution(400, 1, use_bias=True), 200),
        (DepthwiseConvolution(3, use_bias=True), 9),
        (DepthwiseConvolution(5, members=2, use_bias=True), 50),
    ]
    for layer, fan_in in cases:
        params = jax.jit(layer.init)(jax.random.key(1), x)["params"]
        largest = np.abs(params["bias"]).max()
        assert 0.9 / math.sqrt(fan_in) < largest <= 1 / math.sqrt(fan_in)
