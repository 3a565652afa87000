"""LayerNorm's value and gradients against their definition, pixel by pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.layer_norm import layer_norm

EPSILON = 1e-5


def definition(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, cotangent: np.ndarray
) -> tuple[np.ndarray, ...]:
    """y and the gradients of x, scale and bias; the Jacobian of each pixel is written out."""
    channels = len(scale)
    y, x_gradient = np.zeros_like(x), np.zeros_like(x)
    scale_gradient, bias_gradient = np.zeros(channels), np.zeros(channels)
    average = np.full((channels, channels), 1 / channels)
    for image, row, column in np.ndindex(x.shape[0], *x.shape[2:]):
        pixel, target = x[image, :, row, column], cotangent[image, :, row, column]
        centred = pixel - pixel.mean()
        deviation = np.sqrt(np.mean(centred**2) + EPSILON)
        numerator = pixel if bias is None else centred
        y[image, :, row, column] = scale * numerator / deviation + (0 if bias is None else bias)
        slope = np.eye(channels) - (0 if bias is None else average)
        jacobian = slope / deviation - np.outer(numerator, centred) / (channels * deviation**3)
        x_gradient[image, :, row, column] = (scale * target) @ jacobian
        scale_gradient += target * numerator / deviation
        bias_gradient += target
    gradients = (x_gradient, scale_gradient)
    return (y, *gradients) if bias is None else (y, *gradients, bias_gradient)


def value_and_gradients(
    cotangent: jax.Array, x: jax.Array, *scale_and_bias: jax.Array
) -> tuple[jax.Array, ...]:
    def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        return layer_norm(x, scale, bias, EPSILON)

    y, pull_back = jax.vjp(normalise, x, *scale_and_bias)
    return (y, *pull_back(cotangent))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 2, 3), (3, 8, 1, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_values_and_gradients(
    shape: tuple[int, ...], with_bias: bool, dtype: str, tolerance: float
) -> None:
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=shape) + 0.5, rng.normal(size=shape)
    scale, bias = rng.normal(size=(2, shape[1]))
    if shape[1] == 1:
        x *= 0.01  # the variance is zero: epsilon alone divides
    given = [x, scale, bias] if with_bias else [x, scale]
    with jax.enable_x64(dtype == "float64"):
        arguments = [jnp.asarray(array, dtype) for array in (cotangent, *given)]
        actual = jax.jit(value_and_gradients)(*arguments)
    expected = definition(x, scale, bias if with_bias else None, cotangent)
    for result, exact in zip(actual, expected, strict=True):
        assert result.dtype == dtype
        bound = tolerance * max(1, np.abs(exact).max())
        np.testing.assert_allclose(result, exact, rtol=0, atol=bound)
