"""Bands of rows against the whole image."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.programs import environment

from drsformer_jax.ops.convolution import _gradient_by_shifts, _library_gradient, convolution
from drsformer_jax.ops.depthwise import Borders, depthwise_conv
from drsformer_jax.ops.rows import RowShards, clear_padding, with_neighbours, without_neighbours

pytestmark = pytest.mark.usefixtures("small_blocks")

AXIS = "rows"
HERE = Path(__file__).resolve().parent


def test_exchanges_and_sums_on_eight_devices() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "split_rows.py")],
        env=environment(devices=8),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("height", "count", "band", "padded"),
    [(328, 4, 88, 352), (64, 8, 8, 64), (40, 4, 16, 64), (8, 3, 8, 24), (1536, 4, 384, 1536)],
)
def test_bands(height: int, count: int, band: int, padded: int) -> None:
    rows = RowShards(AXIS, count, height)
    assert (rows.band, rows.padded_height) == (band, padded)
    assert rows.level_height(band // 8) == height // 8
    assert hash(rows) == hash(RowShards(AXIS, count, height))


@pytest.mark.parametrize(("count", "height"), [(0, 8), (2, 0), (2, 12), (2, -8)])
def test_impossible_splits_are_refused(count: int, height: int) -> None:
    with pytest.raises(ValueError, match=r"at least one device|multiple of 8"):
        RowShards(AXIS, count, height)


def test_nothing_is_cleared_where_the_height_divides() -> None:
    rows = RowShards(AXIS, 4, 64)
    x = jnp.ones((1, 1, 16, 1))
    assert clear_padding(x, rows) is x
    assert with_neighbours(x, 0, rows) is x


def value_and_gradients(function: Callable[..., jax.Array], x: Any, kernel: Any) -> Any:
    def both(x: jax.Array, kernel: jax.Array) -> Any:
        y, pull_back = jax.vjp(function, x, kernel)
        return y, *pull_back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return jax.jit(both)(x, kernel)


@pytest.mark.parametrize(("halo", "outputs"), [(1, 2), (1, 5), (3, 2)])
def test_convolution_between_neighbours(halo: int, outputs: int) -> None:
    """Rows that another device holds, in the image: as padded by hand and cut off."""
    rng = np.random.default_rng(6)
    x, kernel = rng.normal(size=(2, 4, 7 + 2 * halo, 6)), rng.normal(size=(3, 3, 4, outputs))

    def by_hand(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return without_neighbours(convolution(x, kernel), halo)

    with jax.enable_x64(True):
        expected = value_and_gradients(by_hand, x, kernel)
        actual = value_and_gradients(lambda x, k: convolution(x, k, None, halo), x, kernel)
        cotangent = rng.normal(size=actual[0].shape)
        gradients = [
            jax.jit(form, static_argnums=(3, 4))(x, kernel, cotangent, None, halo)
            for form in (_library_gradient, _gradient_by_shifts)
        ]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-12)


# Neighbours' rows before and after: as much as is needed, more, and so that some are left.
@pytest.mark.parametrize(
    ("size", "dilation", "before", "after"),
    [(3, 1, 1, 0), (5, 1, 4, 2), (3, 1, 4, 2), (3, 2, 6, 0), (5, 1, 6, 3), (1, 1, 6, 0)],
)
def test_depthwise_between_neighbours(size: int, dilation: int, before: int, after: int) -> None:
    rng = np.random.default_rng(7)
    x, kernel = rng.normal(size=(2, 4, 5 + 2 * before, 6)), rng.normal(size=(size, size, 1, 4))

    def by_hand(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return without_neighbours(depthwise_conv(x, kernel, dilation=dilation), before - after)

    def between(x: jax.Array, kernel: jax.Array, platform: str) -> jax.Array:
        return depthwise_conv(
            x,
            kernel,
            dilation=dilation,
            borders=Borders(before, after),
            padding=6,
            has_halo=True,
            platform=platform,
        )

    with jax.enable_x64(True):
        expected = value_and_gradients(by_hand, x, kernel)
        for platform in ("cpu", "gpu", "tpu"):
            function = functools.partial(between, platform=platform)
            actual = value_and_gradients(function, x, kernel)
            for a, b in zip(actual, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_pairs_between_neighbours() -> None:
    rng = np.random.default_rng(8)
    x, kernel = rng.normal(size=(2, 6, 9, 5)), rng.normal(size=(5, 5, 2, 3))

    def by_hand(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return without_neighbours(depthwise_conv(x, kernel), 2)

    with jax.enable_x64(True):
        expected = value_and_gradients(by_hand, x, kernel)
        actual = value_and_gradients(
            lambda x, k: depthwise_conv(x, k, borders=Borders(2, 0), has_halo=True),
            x,
            kernel,
        )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
