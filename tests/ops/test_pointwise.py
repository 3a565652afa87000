"""1x1 convolution against a sum over channels for each pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.pointwise import pointwise_conv


def definition(
    x: np.ndarray, weight: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, d/dx, d/dweight. x is B C H W, weight C D or B C D, cotangent B D H W."""
    y, x_gradient = np.zeros_like(cotangent), np.zeros_like(x)
    weight_gradient = np.zeros_like(weight)
    for image, row, column in np.ndindex(x.shape[0], *x.shape[2:]):
        own = () if weight.ndim == 2 else (image,)
        pixel, target = x[image, :, row, column], cotangent[image, :, row, column]
        y[image, :, row, column] = weight[own].T @ pixel
        x_gradient[image, :, row, column] = weight[own] @ target
        weight_gradient[own] += np.outer(pixel, target)
    return y, x_gradient, weight_gradient


def value_and_gradients(
    x: jax.Array, weight: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, ...]:
    y, pull_back = jax.vjp(pointwise_conv, x, weight)
    return (y, *pull_back(cotangent))


@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 1), (1, 4)])
def test_values_and_gradients(inputs: int, outputs: int, own_weights: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, inputs, 3, 4))
    weight = rng.normal(size=(2, inputs, outputs) if own_weights else (inputs, outputs))
    cotangent = rng.normal(size=(2, outputs, 3, 4))
    with jax.enable_x64(True):
        actual = jax.jit(value_and_gradients)(x, weight, cotangent)
    for result, expected in zip(actual, definition(x, weight, cotangent), strict=True):
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_result_has_the_dtype_of_the_image() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 3, 2, 2)), jnp.bfloat16)
    weight = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    cotangent = jnp.ones((1, 4, 2, 2), jnp.bfloat16)
    y, x_gradient, weight_gradient = jax.jit(value_and_gradients)(x, weight, cotangent)
    assert y.dtype == x_gradient.dtype == jnp.bfloat16
    assert weight_gradient.dtype == jnp.float32
    rounded = np.asarray(weight.astype(jnp.bfloat16), np.float64)
    expected = np.einsum("bchw,cd->bdhw", np.asarray(x, np.float64), rounded)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-3)
