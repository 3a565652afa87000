"""Convolutions in blocks of channels against `depthwise_conv` and against index arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.depthwise import depthwise_conv
from drsformer_jax.ops.tpu.block_convolution import (
    LANES,
    block_convolution,
    blocks_to_space,
    depthwise_by_blocks,
    diagonal_kernel,
    from_blocks,
    into_blocks,
    mix_blocks,
    pair_kernel,
    relu,
    space_to_blocks,
    to_blocks,
)


def draw(*shape: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype)


def value_and_gradients(
    function: Callable[..., jax.Array], *arguments: np.ndarray
) -> list[np.ndarray]:
    """The value, and the gradients by all arguments of its product with something random."""

    def run(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, pull_back = jax.vjp(function, *arguments)
        return (y, *pull_back(jnp.asarray(draw(*y.shape, seed=9), y.dtype)))

    return [np.asarray(result) for result in jax.jit(run)(*arguments)]


def assert_same(
    one: Callable[..., jax.Array], other: Callable[..., jax.Array], *arguments: np.ndarray
) -> None:
    """Values and gradients, in float64 and in float32, against those of the other in float64."""
    with jax.enable_x64(True):
        given = [np.float32(argument) for argument in arguments]
        expected = value_and_gradients(other, *(argument.astype(np.float64) for argument in given))
        for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
            results = value_and_gradients(one, *(argument.astype(dtype) for argument in given))
            for a, b in zip(results, expected, strict=True):
                assert a.dtype == dtype
                np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


def test_relu_and_its_gradient_are_jax_own_bit_for_bit() -> None:
    with jax.enable_x64(True):
        for dtype in (np.float64, np.float32, jnp.bfloat16):
            x = jnp.asarray(draw(64), dtype).at[:3].set(jnp.asarray([0.0, -0.0, 1e-30], dtype))
            for one, other in zip(
                value_and_gradients(relu, x), value_and_gradients(jax.nn.relu, x), strict=True
            ):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def depthwise_in_squares(x: jax.Array, kernel: jax.Array, dilation: int, size: int) -> jax.Array:
    """B C H W, by squares of 2 x 2 pixels."""
    blocks = space_to_blocks(jnp.moveaxis(x, 1, -1), 2, size)
    matrices = diagonal_kernel(into_blocks(kernel, size // 4), dilation, 2)
    y = block_convolution(blocks, matrices)
    return jnp.moveaxis(blocks_to_space(y, 2, x.shape[1]), -1, 1)


def of_each_channel(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Depthwise; kernel is kh kw C."""
    return depthwise_conv(x, kernel[:, :, None], dilation=dilation)


# A whole block, and two small ones: CPU computes their zeros, too.
@pytest.mark.parametrize(
    ("kh", "kw", "dilation", "size"), [(1, 1, 1, 4), (3, 5, 1, LANES), (5, 3, 2, 4), (7, 7, 2, 4)]
)
def test_depthwise(
    kh: int, kw: int, dilation: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_size = functools.partial(into_blocks, size=size)
    monkeypatch.setattr("drsformer_jax.ops.tpu.block_convolution.into_blocks", by_size)
    x, kernel = draw(2, 5, 7, 6), draw(kh, kw, 5)
    expected = functools.partial(of_each_channel, dilation=dilation)
    assert_same(functools.partial(depthwise_by_blocks, dilation=dilation), expected, x, kernel)


@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (7, 2)])
@pytest.mark.parametrize("channels", [2, 5])
def test_depthwise_in_squares(size: int, dilation: int, channels: int) -> None:
    x, kernel = draw(2, channels, 6, 8), draw(size, size, channels)
    squares = functools.partial(depthwise_in_squares, dilation=dilation, size=8)
    assert_same(squares, functools.partial(of_each_channel, dilation=dilation), x, kernel)


@pytest.mark.parametrize("phases", [1, 2])
def test_pairs(phases: int) -> None:
    x, kernel = draw(2, 10, 4, 6), draw(3, 3, 2, 5)
    channels = 4

    def in_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        blocks = space_to_blocks(jnp.moveaxis(x, 1, -1), phases, channels * phases**2)
        matrices = pair_kernel(into_blocks(kernel, channels // 2), phases)
        y = blocks_to_space(block_convolution(blocks, matrices), phases, 12)
        # A block's second half of outputs is zero.
        y = y.reshape(2, 4, 6, 3, 2, channels // 2)
        return jnp.moveaxis(y[..., 0, :].reshape(2, 4, 6, -1)[..., :5], -1, 1)

    assert_same(in_blocks, depthwise_conv, x, kernel)


@pytest.mark.parametrize("own_weights", [False, True])
def test_mixing(own_weights: bool) -> None:
    x = draw(2, 4, 6, 5)
    weight = draw(2, 5, 3) if own_weights else draw(5, 3)

    def in_squares(x: jax.Array, weight: jax.Array) -> jax.Array:
        return blocks_to_space(mix_blocks(space_to_blocks(x, 2, 8), weight, 2), 2, 3)

    def plain(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.einsum(f"bhwc,{'b' * own_weights}cd->bhwd", x, weight)

    assert_same(in_squares, plain, x, weight)


def test_into_and_out_of_blocks() -> None:
    x, weight, back = draw(2, 4, 3, 5), draw(5, 7), draw(7, 2)

    def in_blocks(x: jax.Array, weight: jax.Array, back: jax.Array) -> jax.Array:
        return from_blocks(to_blocks(x, into_blocks(weight, 4)), back)

    assert_same(in_blocks, lambda x, weight, back: x @ weight @ back, x, weight, back)


def test_squares_hold_their_pixels() -> None:
    image = draw(1, 4, 6, 3)
    blocks = space_to_blocks(jnp.asarray(image), 2, 8)
    assert blocks.shape == (1, 2, 3, 2, 8)
    for row, column, channel in np.ndindex(4, 6, 3):
        place = (row % 2) * 4 + (column % 2) * 2 + channel % 2
        found = blocks[0, row // 2, column // 2, channel // 2, place]
        assert found == np.float32(image[0, row, column, channel])
    np.testing.assert_array_equal(blocks_to_space(blocks, 2, 3), np.float32(image))


def test_bfloat16_products_are_rounded_once() -> None:
    x, weight = (jnp.asarray(draw(*shape), jnp.bfloat16) for shape in ((1, 2, 2, 64), (64, 3)))
    y = from_blocks(into_blocks(x, 16), weight)
    assert y.dtype == jnp.float32
    exact = np.asarray(x, np.float64) @ np.asarray(weight, np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=1e-5, atol=1e-5)


def test_no_convolution_is_grouped() -> None:
    """The partitioner of a program for many devices would gather the batch."""
    x = jax.ShapeDtypeStruct((2, 8, 8, 3, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
    gradient = jax.grad(
        lambda x, k: jnp.sum(block_convolution(x, diagonal_kernel(k)) ** 2), argnums=(0, 1)
    )
    text = jax.jit(gradient).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert text.count("feature_group_count = 1 : i64") == 3
    assert text.count("batch_group_count = 1 : i64") == 3
