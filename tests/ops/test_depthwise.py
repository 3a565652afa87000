"""Depthwise convolution against loops over its definition, in the form of every platform."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops import depthwise
from drsformer_jax.ops.depthwise import depthwise_conv

pytestmark = pytest.mark.usefixtures("small_blocks")

# kernel height, kernel width, dilation, channels, image height, image width
CASES = [
    (1, 1, 1, 3, 5, 6),
    (3, 3, 1, 5, 6, 4),
    (5, 5, 1, 3, 7, 9),
    (7, 7, 1, 1, 8, 9),
    (3, 5, 1, 4, 5, 8),
    (3, 3, 2, 3, 6, 7),
    (5, 5, 2, 5, 9, 11),
    # Images lower or narrower than the kernel.
    (7, 7, 2, 3, 9, 4),
    (5, 5, 1, 3, 2, 6),
    (5, 5, 1, 2, 1, 1),
]


def definition(
    x: np.ndarray, kernel: np.ndarray, dilation: int, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The convolution and its two gradients, pixel by pixel and kernel element by element.

    x and cotangent are B C H W, kernel is kh kw C.
    """
    y, x_gradient, kernel_gradient = np.zeros_like(x), np.zeros_like(x), np.zeros_like(kernel)
    image_size, kernel_size = x.shape[2:], kernel.shape[:2]
    for row, column in np.ndindex(*image_size):
        for i, j in np.ndindex(*kernel_size):
            source_row = row + (i - kernel_size[0] // 2) * dilation
            source_column = column + (j - kernel_size[1] // 2) * dilation
            if not (0 <= source_row < image_size[0] and 0 <= source_column < image_size[1]):
                continue
            source = x[:, :, source_row, source_column]
            target = cotangent[:, :, row, column]
            y[:, :, row, column] += kernel[i, j] * source
            x_gradient[:, :, source_row, source_column] += kernel[i, j] * target
            kernel_gradient[i, j] += (source * target).sum(axis=0)
    return y, x_gradient, kernel_gradient


def paired_definition(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """B 2G H W and kh kw 2 G -> B G H W: each output is the sum over its two input channels."""
    batch, channels, height, width = x.shape
    y = np.zeros((batch, channels // 2, height, width))
    for group, member in itertools.product(range(channels // 2), range(2)):
        channel = slice(2 * group + member, 2 * group + member + 1)
        part, _, _ = definition(x[:, channel], kernel[:, :, member, group, None], 1, x[:, channel])
        y[:, group] += part[:, 0]
    return y


def of_each_channel(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """With one input channel to an output; kernel is kh kw C."""
    return depthwise_conv(x, kernel[:, :, None], **options)


def value_and_gradients(
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    dilation: int = 1,
    platform: str | None = None,
) -> tuple[jax.Array, ...]:
    convolve = functools.partial(of_each_channel, dilation=dilation, platform=platform)
    y, pull_back = jax.vjp(convolve, x, kernel)
    return (y, *pull_back(cotangent))


PLATFORMS = ["cpu", "gpu", "tpu"]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def assert_close(actual: jax.Array, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kh", "kw", "dilation", "channels", "height", "width"), CASES)
def test_values_and_gradients(
    kh: int, kw: int, dilation: int, channels: int, height: int, width: int
) -> None:
    """On every platform, and the kernel's gradient by itself; all in one program."""
    x, cotangent = draw(2, channels, height, width), draw(2, channels, height, width, seed=1)
    kernel = draw(kh, kw, channels)
    rows, columns = (kh // 2) * dilation, (kw // 2) * dilation
    padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))

    def everywhere(x: jax.Array, kernel: jax.Array, cotangent: jax.Array, padded: jax.Array) -> Any:
        results = {
            platform: value_and_gradients(x, kernel, cotangent, dilation, platform)
            for platform in PLATFORMS
        }
        gradient = depthwise.kernel_gradient(
            padded, cotangent, kernel[:, :, None], dilation=dilation
        )
        return results, gradient[:, :, 0]

    with jax.enable_x64(True):
        results, gradient = jax.jit(everywhere)(x, kernel, cotangent, padded)
    wanted = definition(x, kernel, dilation, cotangent)
    for platform in PLATFORMS:
        for result, expected in zip(results[platform], wanted, strict=True):
            assert_close(result, expected)
    assert_close(gradient, wanted[2])


def draw_pairs(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, kernel and cotangent, with two input channels to an output."""
    return draw(2, 6, 7, 5), draw(size, size, 2, 3), draw(2, 3, 7, 5)


@functools.cache
def without_borders(size: int) -> tuple[np.ndarray, ...]:
    """The value by definition, and the gradients of the convolution without any border."""
    x, kernel, cotangent = draw_pairs(size)
    with jax.enable_x64(True):
        gradients = jax.jit(lambda x, k, c: jax.vjp(depthwise_conv, x, k)[1](c))
        return paired_definition(x, kernel), *map(np.asarray, gradients(x, kernel, cotangent))


# before, after and padding, from what a convolution of its own needs to what MSFN and MEFC share
BORDERS = [(0, 1, 0), (1, 0, 0), (4, 2, 0), (3, 0, 0), (1, 3, 0), (0, 2, 4), (0, 0, 6)]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("size", [3, 5])
def test_borders(size: int, platform: str) -> None:
    """What they carry is zero; the inside is the convolution without any, and so its gradients."""
    x, kernel, cotangent = draw_pairs(size)

    def pad(image: np.ndarray, border: int) -> np.ndarray:
        return np.pad(image, ((0, 0), (0, 0), (border, border), (border, border)))

    def crop(image: jax.Array, border: int) -> jax.Array:
        return image[:, :, border : image.shape[2] - border, border : image.shape[3] - border]

    def results(kernel: jax.Array, padded: list[Any]) -> list[tuple[jax.Array, ...]]:
        found = []
        for (before, after, padding), (x, cotangent) in zip(BORDERS, padded, strict=True):
            borders = depthwise.Borders(before, after)
            convolve = functools.partial(
                depthwise_conv, dilation=1, borders=borders, padding=padding, platform=platform
            )
            y, pull_back = jax.vjp(convolve, x, kernel)
            found.append((y, *pull_back(cotangent)))
        return found

    padded = [(pad(x, before), pad(cotangent, after)) for before, after, _ in BORDERS]
    with jax.enable_x64(True):
        found = jax.jit(results)(kernel, padded)
    expected = without_borders(size)
    for (before, after, _), (y, x_gradient, kernel_gradient) in zip(BORDERS, found, strict=True):
        assert_close(y, pad(expected[0], after))
        assert_close(crop(x_gradient, before), expected[1])
        assert_close(kernel_gradient, expected[2])


def test_gradient_against_central_differences() -> None:
    x, kernel, weights = draw(1, 2, 4, 3), draw(3, 3, 2), draw(1, 2, 4, 3, seed=1)
    step = 1e-5

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(weights * jnp.sin(of_each_channel(x, kernel, dilation=2)))

    with jax.enable_x64(True):
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)
        compiled = jax.jit(loss)
        for argument, gradient in enumerate(gradients):
            numeric = np.zeros(gradient.shape)
            for index in np.ndindex(gradient.shape):
                ends = []
                for sign in (1, -1):
                    moved = [x.copy(), kernel.copy()]
                    moved[argument][index] += sign * step
                    ends.append(float(compiled(*moved)))
                numeric[index] = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-8)


def test_bfloat16_is_summed_in_float32() -> None:
    x = jnp.asarray(draw(2, 3, 9, 8), jnp.bfloat16)
    cotangent = jnp.asarray(draw(2, 3, 9, 8, seed=1), jnp.bfloat16)
    kernel = jnp.asarray(draw(5, 5, 3), jnp.float32)
    y, x_gradient, kernel_gradient = jax.jit(value_and_gradients)(x, kernel, cotangent)
    assert (y.dtype, x_gradient.dtype, kernel_gradient.dtype) == (
        jnp.bfloat16,
        jnp.bfloat16,
        jnp.float32,
    )
    wide = [np.asarray(a, np.float64) for a in (x, kernel, cotangent)]
    exact = definition(wide[0], wide[1], 1, wide[2])
    # Rounding once to bfloat16 costs at most 2**-8 of the value; summing in it costs more.
    for result, expected, rounding in zip(
        (y, x_gradient, kernel_gradient), exact, (2**-8, 2**-8, 0), strict=True
    ):
        error = np.abs(np.asarray(result, np.float64) - expected)
        assert (error <= rounding * np.abs(expected) + 1e-5).all()


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_form_is_chosen_by_platform(platform: str, differentiated: bool) -> None:
    x = jax.ShapeDtypeStruct((2, 7, 16, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 5, 7), jnp.float32)
    function = functools.partial(of_each_channel, platform=platform)
    if differentiated:
        value = function
        function = jax.grad(lambda x, k: jnp.sum(value(x, k) ** 2), argnums=(0, 1))
    text = jax.jit(function).lower(x, kernel).as_text()
    convolutions = text.count("stablehlo.convolution")
    # Of an image that is padded in memory: the one of the value, and that of the cotangent.
    barriers = {False: 1, True: 2}[differentiated] if platform == "gpu" else 0
    assert text.count("stablehlo.optimization_barrier") == barriers
    if platform == "tpu":  # blocks of channels: no group, which a partitioner would gather
        assert convolutions == (3 if differentiated else 1)
        assert text.count("feature_group_count = 1 : i64") == convolutions
    else:
        assert convolutions == 0


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_paired_values(size: int, groups: int) -> None:
    x, kernel = draw(2, 2 * groups, 6, 5), draw(size, size, 2, groups)
    with jax.enable_x64(True):
        result = jax.jit(depthwise_conv)(x, kernel)
    assert_close(result, paired_definition(x, kernel))


def test_paired_gradients() -> None:
    """It is linear in each argument: <y(x, k), c> has to be <x, dx> and <k, dk>, for all c."""
    x, kernel = draw(2, 6, 5, 4), draw(3, 3, 2, 3)

    def gradients(
        x: jax.Array, kernel: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(depthwise_conv, x, kernel)[1](cotangent)

    cotangent = draw(2, 3, 5, 4)
    with jax.enable_x64(True):
        x_gradient, kernel_gradient = map(np.asarray, jax.jit(gradients)(x, kernel, cotangent))
    for seed in range(20):
        other_x, other_kernel = draw(*x.shape, seed=seed), draw(*kernel.shape, seed=seed)
        along_x = np.sum(paired_definition(other_x, kernel) * cotangent)
        np.testing.assert_allclose(np.sum(other_x * x_gradient), along_x, rtol=0, atol=1e-11)
        along_kernel = np.sum(paired_definition(x, other_kernel) * cotangent)
        np.testing.assert_allclose(
            np.sum(other_kernel * kernel_gradient), along_kernel, rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 4, 5)])
def test_even_kernels_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"must be odd, not {shape[0]}x{shape[1]}"):
        of_each_channel(jnp.zeros((1, 5, 8, 8)), jnp.zeros(shape))


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel for 1 channels, image with 5"):
        of_each_channel(jnp.zeros((1, 5, 8, 8)), jnp.zeros((3, 3, 1)))


def test_ones_for_the_rows_change_no_bit() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 12, 12)).astype(np.float32)
    kernel = rng.normal(size=(5, 5, 2, 3)).astype(np.float32)
    convolve = depthwise._shift_and_add(1, 2)
    np.testing.assert_array_equal(
        convolve(x, kernel, jnp.ones(5, jnp.float32)), convolve(x, kernel)
    )
