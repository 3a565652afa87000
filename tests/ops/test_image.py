"""Images that know their margin. With rows over devices: tests/models/test_network_rows.py."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image, average_pool, convolved_in_groups, mixed, relu

pytestmark = pytest.mark.usefixtures("small_blocks")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


@pytest.mark.parametrize(("height", "width"), [(5, 6), (1, 4), (3, 1), (1, 1), (2, 2)])
def test_average_pool_counts_pixels_inside_only(height: int, width: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, height, width))
    expected = np.zeros_like(x)
    for row, column in np.ndindex(height, width):
        rows = slice(max(row - 1, 0), row + 2)
        columns = slice(max(column - 1, 0), column + 2)
        expected[:, :, row, column] = x[:, :, rows, columns].mean(axis=(2, 3))
    with jax.enable_x64(True):
        actual = jax.jit(lambda x: average_pool(Image(x)).array)(x)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("carry_zeros", [True, False])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_convolutions_that_look_around_together(platform: str, carry_zeros: bool) -> None:
    """As each by itself; with biases, which must not fill what the next one reads as zeros."""
    x, cotangent = draw(2, 4, 6, 5), draw(2, 4, 6, 5, seed=1)
    first, second = draw(5, 5, 1, 4), draw(3, 3, 1, 4, seed=1)
    bias = 1 + np.abs(draw(4))

    def run(x: jax.Array, *, together: bool) -> jax.Array:
        image = Image(x, Execution(platform=platform))
        if together:
            image = image.look_around(3, carry_zeros=carry_zeros)
        image = mixed(image, jnp.eye(4), bias)
        image = relu(convolved_in_groups(image, first, bias, keep=1))
        assert image.margin == (together and carry_zeros and platform != "tpu")
        return convolved_in_groups(image, second, bias).array

    def results(x: jax.Array, together: bool) -> tuple[jax.Array, ...]:
        y, pull_back = jax.vjp(functools.partial(run, together=together), x)
        return y, *pull_back(cotangent)

    with jax.enable_x64(True):
        apart, together = (
            jax.jit(functools.partial(results, together=choice))(x) for choice in (False, True)
        )
    for a, b in zip(apart, together, strict=True):
        assert a.shape == x.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_channels_are_split_and_put_beside_each_other() -> None:
    x = draw(2, 6, 3, 4)
    first, second = Image(jnp.asarray(x)).halves()
    assert (first.channels, second.channels) == (3, 3)
    np.testing.assert_array_equal(second.beside(first).array, np.roll(np.float32(x), 3, axis=1))
    np.testing.assert_array_equal((first + first).array, 2 * np.float32(x[:, :3]))


def test_the_mean_of_bfloat16_is_taken_in_float32() -> None:
    x = jnp.asarray(draw(2, 3, 40, 40) + 5, jnp.bfloat16)
    mean = Image(x).mean()
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean(axis=(2, 3)), rtol=1e-6)


def test_another_execution_is_another_program() -> None:
    traced = []

    @jax.jit
    def function(image: Image) -> Image:
        traced.append(image.how.platform)
        return image

    for platform in ("cpu", "tpu", "cpu"):
        assert function(Image(jnp.ones((1, 1, 2, 2)), Execution(platform=platform))).how.platform
    assert traced == ["cpu", "tpu"]
