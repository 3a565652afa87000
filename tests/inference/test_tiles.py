"""Padding and tiles: exact geometry, no network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.inference import tiles

SIZES = [(1, 1), (7, 5), (13, 21), (64, 40)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_padding_reflects_at_bottom_and_right(height: int, width: int) -> None:
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    padded = tiles.pad_to_multiple(image)
    assert padded.shape == (-(-height // 8) * 8, -(-width // 8) * 8, 3)
    np.testing.assert_array_equal(padded[:height, :width], image)

    # The definition of repeated reflection: a triangle wave over the source indices.
    def source(index: int, length: int) -> int:
        period = max(2 * (length - 1), 1)
        return min(index % period, period - index % period) if length > 1 else 0

    for row in range(padded.shape[0]):
        for column in range(padded.shape[1]):
            expected = image[source(row, height), source(column, width)]
            np.testing.assert_array_equal(padded[row, column], expected)


def test_multiples_of_8_are_not_padded() -> None:
    image = np.zeros((64, 40, 3), np.uint8)
    assert tiles.pad_to_multiple(image).shape == image.shape


def test_last_tile_is_shifted_inwards() -> None:
    plan = tiles.plan_tiles(104, 64, 64, 32)
    assert plan.tops == (0, 32, 40)
    assert plan.lefts == (0,)
    assert (plan.tile_height, plan.tile_width) == (64, 64)


def test_side_shorter_than_the_tile_is_taken_whole() -> None:
    plan = tiles.plan_tiles(16, 200, 64, 0)
    assert (plan.tile_height, plan.tile_width) == (16, 64)
    assert plan.tops == (0,)
    assert plan.lefts == (0, 64, 128, 136)


def test_tile_0_is_the_whole_image() -> None:
    plan = tiles.plan_tiles(104, 72, 0, 32)
    assert list(plan) == [(slice(0, 104), slice(0, 72))]


@pytest.mark.parametrize("overlap", [0, 5, 32, 56])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (72, 136), (200, 64)])
def test_tiles_cover_everything_with_the_overlap(height: int, width: int, overlap: int) -> None:
    plan = tiles.plan_tiles(height, width, 64, overlap)
    covered = np.zeros((height, width), int)
    shapes = set()
    for rows, columns in plan:
        covered[rows, columns] += 1
        shapes.add(covered[rows, columns].shape)
    assert covered.min() >= 1
    assert shapes == {(min(64, height), min(64, width))}
    for starts in (plan.tops, plan.lefts):
        assert all(b - a <= 64 - overlap for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("overlap", [0, 5, 32])
def test_mean_weights_sum_to_one(overlap: int) -> None:
    """Each tile returns its own number: a pixel's value is the plain mean of its tiles."""
    plan = tiles.plan_tiles(104, 136, 64, overlap)
    numbers = iter(range(100))
    image = np.zeros((104, 136, 1), np.float32)
    restored = tiles.restore_in_tiles(
        plan, image, lambda tile: np.full_like(tile, float(next(numbers))), "uniform"
    )
    expected = np.zeros_like(image)
    for row in range(104):
        for column in range(136):
            inside = [
                number
                for number, (rows, columns) in enumerate(plan)
                if rows.start <= row < rows.stop and columns.start <= column < columns.stop
            ]
            expected[row, column] = np.mean(inside)
    np.testing.assert_allclose(restored, expected, rtol=1e-6)
    ones = tiles.restore_in_tiles(plan, image, np.ones_like, "uniform")
    np.testing.assert_array_equal(ones, 1)


@pytest.mark.parametrize("overlap", [0, 5, 32, 40])
def test_smooth_weights_sum_to_one_and_fall_towards_inner_borders(overlap: int) -> None:
    plan = tiles.plan_tiles(104, 136, 64, overlap)
    image = np.zeros((104, 136, 3), np.float32)
    ones = tiles.restore_in_tiles(plan, image, np.ones_like)
    np.testing.assert_allclose(ones, 1, rtol=1e-6)
    weights = np.zeros((len(plan), 104, 136), np.float32)
    for number, (weight, (rows, columns)) in enumerate(zip(weights, plan, strict=True)):
        calls = itertools.count()

        def only_this(tile: np.ndarray, calls: Any = calls, number: int = number) -> np.ndarray:
            return np.full_like(tile, float(next(calls) == number))

        weight[:] = tiles.restore_in_tiles(plan, image, only_this)[..., 0]
        assert weight.min() >= 0
        assert weight.sum() == pytest.approx(weight[rows, columns].sum())
        if overlap:
            inner = [edge for edge in (rows.start, rows.stop - 1) if edge not in (0, 103)]
            assert weight[inner].max() < 0.12
    # Where nothing overlaps, and so at the image's border.
    assert weights[0, 0, 0] == weights[-1, -1, -1] == 1


def test_smooth_tiles_have_no_step() -> None:
    """Two neighbours that are one apart meet in a ramp over the overlap."""
    plan = tiles.plan_tiles(64, 96, 64, 32)
    numbers = iter([0.0, 1.0])
    image = np.zeros((64, 96, 1), np.float32)
    ramp = tiles.restore_in_tiles(plan, image, lambda tile: np.full_like(tile, next(numbers)))
    steps = np.diff(ramp[0, :, 0])
    assert (steps >= 0).all()
    assert steps.max() < 1.6 / 32
    np.testing.assert_allclose(ramp[:, ::-1], 1 - ramp, atol=1e-6)


def test_another_blend_is_a_users_error() -> None:
    with pytest.raises(UserError, match="--blend must be smooth or uniform"):
        tiles.restore_in_tiles(tiles.plan_tiles(8, 8, 0, 0), np.zeros((8, 8, 3)), abs, "mean")


@pytest.mark.parametrize(
    ("tile", "overlap", "flag"),
    [(60, 32, "--tile"), (-8, 0, "--tile"), (64, 64, "--overlap"), (64, -1, "--overlap")],
)
def test_bad_tiling_names_the_flag(tile: int, overlap: int, flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag} "):
        tiles.plan_tiles(64, 64, tile, overlap)
