"""Padding, cropping, the eight flips and rotations, mixup."""

from __future__ import annotations

import numpy as np
import pytest

from drsformer_jax.data.transforms import (
    blend,
    dihedral,
    draw_mixup,
    pad_to_size,
    random_crop_pair,
)


def ramp(height: int, width: int) -> np.ndarray:
    """Every pixel has its own value."""
    return np.arange(height * width * 3, dtype=np.int32).reshape(height, width, 3)


def reflected(index: int, size: int) -> int:
    """Where position `index` comes from when `size` samples are mirrored, the ends not doubled."""
    if size == 1:
        return 0
    index %= 2 * size - 2
    return min(index, 2 * size - 2 - index)


@pytest.mark.parametrize("shape", [(5, 3), (2, 9), (1, 1), (8, 8), (1, 7)])
def test_padding_reflects_at_bottom_and_right_as_often_as_needed(shape: tuple[int, int]) -> None:
    image = ramp(*shape)
    (padded,) = pad_to_size(image, size=16)
    assert padded.shape == (16, 16, 3)
    for row in range(16):
        for column in range(16):
            expected = image[reflected(row, shape[0]), reflected(column, shape[1])]
            np.testing.assert_array_equal(padded[row, column], expected)


def test_padding_leaves_large_images_alone() -> None:
    first, second = ramp(9, 20), ramp(9, 20)
    padded = pad_to_size(first, second, size=9)
    assert padded[0] is first
    assert padded[1] is second
    assert pad_to_size(first, size=10)[0].shape == (10, 20, 3)


def test_crops_take_the_same_window_and_reach_every_position() -> None:
    image = ramp(6, 7)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        input, target = random_crop_pair(image, image + 1000, 4, rng)
        assert input.shape == (4, 4, 3)
        np.testing.assert_array_equal(target, input + 1000)
        top, left = divmod(int(input[0, 0, 0]) // 3, 7)
        np.testing.assert_array_equal(input, image[top : top + 4, left : left + 4])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(4)}


def test_crops_of_small_images_are_padded() -> None:
    input, target = random_crop_pair(ramp(3, 5), ramp(3, 5), 8, np.random.default_rng(0))
    assert input.shape == target.shape == (8, 8, 3)


def test_crops_refuse_pairs_of_different_size() -> None:
    with pytest.raises(ValueError, match="target"):
        random_crop_pair(ramp(5, 5), ramp(5, 6), 4, np.random.default_rng(0))


def test_dihedral_is_the_whole_group() -> None:
    image = ramp(4, 4)
    images = [dihedral(image, k) for k in range(8)]
    assert len({each.tobytes() for each in images}) == 8
    np.testing.assert_array_equal(images[0], image)
    expected = [np.rot90(flipped, turns) for flipped in (image, image[::-1]) for turns in range(4)]
    assert {each.tobytes() for each in images} == {each.tobytes() for each in expected}
    with pytest.raises(ValueError, match=r"0\.\.7"):
        dihedral(image, 8)


def test_mixup_blends_half_of_the_batches() -> None:
    images = np.random.default_rng(0).random((6, 4, 4, 3)).astype(np.float32)
    weights = []
    for seed in range(400):
        drawn = draw_mixup(6, np.random.default_rng(seed))
        if drawn is None:
            continue
        weight, partners = drawn
        weights.append(weight)
        assert sorted(partners) == list(range(6))
        blended = blend(images, images[partners], weight)
        assert blended.dtype == np.float32
        expected = weight * images + (1 - weight) * images[partners]
        np.testing.assert_allclose(blended, expected, atol=1e-6)
    assert 160 < len(weights) < 240
    # Beta(1.2, 1.2): mean 1/2, variance 1 / (4 * 3.4).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.06)
    assert np.var(weights) == pytest.approx(1 / 13.6, abs=0.02)
