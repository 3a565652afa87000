"""Convolutions over all channels against their definition, with all forms of the gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops import convolution as module
from drsformer_jax.ops.convolution import convolution, pointwise_conv

# kernel height and width, inputs, outputs, image height and width; fewer outputs than inputs are
# another form on CPU.
CASES = [(3, 3, 5, 2, 6, 7), (3, 3, 2, 5, 6, 7), (3, 3, 3, 3, 4, 5), (5, 3, 4, 1, 3, 2)]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def definition(
    x: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value and both gradients, kernel element by kernel element."""
    rows, columns = (size // 2 for size in kernel.shape[:2])
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    y, x_gradient = np.zeros(cotangent.shape), np.zeros(padded.shape)
    kernel_gradient = np.zeros(kernel.shape)
    for i, j in np.ndindex(*kernel.shape[:2]):
        view = np.s_[:, :, i : i + height, j : j + width]
        y += np.einsum("bchw,cd->bdhw", padded[view], kernel[i, j])
        x_gradient[view] += np.einsum("bdhw,cd->bchw", cotangent, kernel[i, j])
        kernel_gradient[i, j] = np.einsum("bchw,bdhw->cd", padded[view], cotangent)
    inside = np.s_[:, :, rows : rows + height, columns : columns + width]
    return y, x_gradient[inside], kernel_gradient


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: tuple[int, ...]) -> None:
    kh, kw, inputs, outputs, height, width = case
    x, kernel = draw(2, inputs, height, width), draw(kh, kw, inputs, outputs)
    cotangent = draw(2, outputs, height, width, seed=1)

    def results(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        y, pull_back = jax.vjp(convolution, x, kernel)
        return (y, *pull_back(cotangent))

    with jax.enable_x64(True):
        actual = jax.jit(results)(x, kernel, cotangent)
    for result, expected in zip(actual, definition(x, kernel, cotangent), strict=True):
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", [module._gradient_by_shifts, module._library_gradient])
@pytest.mark.parametrize("case", CASES)
def test_forms_of_the_kernel_gradient(
    case: tuple[int, ...], form: Callable[..., jax.Array]
) -> None:
    kh, kw, inputs, outputs, height, width = case
    x, kernel = draw(2, inputs, height, width), draw(kh, kw, inputs, outputs)
    cotangent = draw(2, outputs, height, width, seed=1)
    with jax.enable_x64(True):
        result = jax.jit(functools.partial(form, precision=None))(x, kernel, cotangent)
    np.testing.assert_allclose(result, definition(x, kernel, cotangent)[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("platform", "outputs", "convolutions"),
    [("cpu", 2, 2), ("cpu", 5, 3), ("gpu", 2, 3), ("tpu", 2, 3)],
)
def test_form_is_chosen_by_platform(platform: str, outputs: int, convolutions: int) -> None:
    """Value and input gradient are convolutions; the kernel gradient may be a product."""
    x = jax.ShapeDtypeStruct((1, 4, 8, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 4, outputs), jnp.float32)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(convolution(x, kernel, platform=platform) ** 2)

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == convolutions


def pointwise_definition(
    x: np.ndarray, weight: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By pixels: y, d/dx, d/dweight. x is B C H W, weight C D or B C D, cotangent B D H W."""
    y, x_gradient = np.zeros_like(cotangent), np.zeros_like(x)
    weight_gradient = np.zeros_like(weight)
    for image, row, column in np.ndindex(x.shape[0], *x.shape[2:]):
        own = () if weight.ndim == 2 else (image,)
        pixel, target = x[image, :, row, column], cotangent[image, :, row, column]
        y[image, :, row, column] = weight[own].T @ pixel
        x_gradient[image, :, row, column] = weight[own] @ target
        weight_gradient[own] += np.outer(pixel, target)
    return y, x_gradient, weight_gradient


def pointwise_results(
    x: jax.Array, weight: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, ...]:
    y, pull_back = jax.vjp(pointwise_conv, x, weight)
    return (y, *pull_back(cotangent))


@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 1), (1, 4)])
def test_pointwise_values_and_gradients(inputs: int, outputs: int, own_weights: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, inputs, 3, 4))
    weight = rng.normal(size=(2, inputs, outputs) if own_weights else (inputs, outputs))
    cotangent = rng.normal(size=(2, outputs, 3, 4))
    with jax.enable_x64(True):
        actual = jax.jit(pointwise_results)(x, weight, cotangent)
    for result, expected in zip(actual, pointwise_definition(x, weight, cotangent), strict=True):
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_pointwise_result_has_the_dtype_of_the_image() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 3, 2, 2)), jnp.bfloat16)
    weight = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    cotangent = jnp.ones((1, 4, 2, 2), jnp.bfloat16)
    y, x_gradient, weight_gradient = jax.jit(pointwise_results)(x, weight, cotangent)
    assert y.dtype == x_gradient.dtype == jnp.bfloat16
    assert weight_gradient.dtype == jnp.float32
    rounded = np.asarray(weight.astype(jnp.bfloat16), np.float64)
    expected = np.einsum("bchw,cd->bdhw", np.asarray(x, np.float64), rounded)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("platform", "few_pixels", "channels", "product"),
    [
        ("cpu", 12, (3, 5), "3x5"),
        ("cpu", 11, (3, 5), "2x5x3"),  # the larger one first
        ("cpu", 11, (5, 3), "2x5x3"),
        ("tpu", 12, (3, 5), "2x3x5"),
    ],
)
def test_forms_of_the_pointwise_weight_gradient(
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    few_pixels: int,
    channels: tuple[int, int],
    product: str,
) -> None:
    """One product for all images where pixels are few on CPU, else one an image and their sum."""
    monkeypatch.setattr(module, "_FEW_PIXELS", few_pixels)
    x, weight = draw(2, channels[0], 3, 4), draw(*channels)
    cotangent = draw(2, channels[1], 3, 4, seed=1)

    def gradient(x: jax.Array, weight: jax.Array, cotangent: jax.Array) -> jax.Array:
        pull_back = jax.vjp(lambda w: pointwise_conv(x, w, platform=platform), weight)[1]
        return pull_back(cotangent)[0]

    with jax.enable_x64(True):
        lowered = jax.jit(gradient).lower(x, weight, cotangent)
        actual = lowered.compile()(x, weight, cotangent)
    expected = pointwise_definition(x, weight, cotangent)[2]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    (line,) = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert line.split(" loc(")[0].endswith(f"-> tensor<{product}xf64>")
