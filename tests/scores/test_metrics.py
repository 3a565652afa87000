"""The metrics against a definition written as plain loops, and against the papers' programs."""

from __future__ import annotations

import csv
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from drsformer_jax.data.images import read_rgb
from drsformer_jax.errors import UserError
from drsformer_jax.scores.metrics import (
    box_downsample,
    downsampling_factor,
    luminance,
    psnr,
    score,
    score_restored,
    ssim,
)
from drsformer_jax.scores.protocols import get_protocol

WITH_SSIM = ("rain200", "did_ddn")
ALL = (*WITH_SSIM, "basicsr")
RAIN200, DID_DDN, BASICSR = map(get_protocol, ALL)


def random_pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth-ish image and a noisy copy, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] % 256
    target = (ramp // 2 + rng.integers(0, 128, (height, width, 3))).astype(np.uint8)
    noise = rng.integers(-30, 31, target.shape)
    return np.clip(target + noise, 0, 255).astype(np.uint8), target


def loop_luminance(image: np.ndarray, rounded: bool) -> list[list[float]]:
    """Y in exact fractions; halves go up, which for positive numbers is away from zero."""
    rows = []
    for row in image.tolist():
        line = []
        for red, green, blue in row:
            y = 16 + Fraction(65481 * red + 128553 * green + 24966 * blue, 255 * 1000)
            line.append(float(math.floor(y + Fraction(1, 2)) if rounded else y))
        rows.append(line)
    return rows


def loop_psnr(x: list[list[float]], y: list[list[float]]) -> float:
    squares = [(a - b) ** 2 for p, q in zip(x, y, strict=True) for a, b in zip(p, q, strict=True)]
    return 20 * math.log10(255 / math.sqrt(math.fsum(squares) / len(squares)))


def loop_shrunk(plane: list[list[float]], factor: int) -> list[list[float]]:
    """f x f means with mirrored borders, at every f-th pixel from the first."""
    height, width = len(plane), len(plane[0])
    # The window's centre is its element (f + 1) // 2, counted from one.
    reach = range(1 - (factor + 1) // 2, factor + 1 - (factor + 1) // 2)

    def mirrored(index: int, size: int) -> int:
        if index < 0:
            return -1 - index
        return 2 * size - 1 - index if index >= size else index

    return [
        [
            math.fsum(
                plane[mirrored(i + di, height)][mirrored(j + dj, width)]
                for di in reach
                for dj in reach
            )
            / factor**2
            for j in range(0, width, factor)
        ]
        for i in range(0, height, factor)
    ]


def loop_ssim(x: list[list[float]], y: list[list[float]]) -> float:
    """SSIM by its definition: weighted moments about the weighted mean of each window."""
    kernel = [
        [math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)
    ]
    total = sum(map(sum, kernel))
    weights = np.array(kernel) / total
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    rows = []
    for i in range(len(x) - 10):
        a, b = (sliding_window_view(np.array(plane[i : i + 11]), (11, 11))[0] for plane in (x, y))

        def mean(values: np.ndarray) -> np.ndarray:
            return (weights * values).sum(axis=(1, 2))

        mean_a, mean_b = mean(a), mean(b)
        from_mean_a, from_mean_b = a - mean_a[:, None, None], b - mean_b[:, None, None]
        variances = mean(from_mean_a**2) + mean(from_mean_b**2)
        covariance = mean(from_mean_a * from_mean_b)
        rows.append(
            (2 * mean_a * mean_b + c1)
            * (2 * covariance + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
        )
    values = np.concatenate(rows).tolist()
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("protocol", ALL)
def test_luminance_range(protocol: str) -> None:
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    y = luminance(black_and_white, get_protocol(protocol))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [[16, 235]])


def test_luminance_rounds_exact_halves_up() -> None:
    # Y is 52.5 (twice), 125.5 and 198.5: rounding to even, or downwards, gets some of them wrong.
    halves = [[35, 47, 39], [50, 38, 46], [120, 132, 124], [205, 217, 209]]
    image = np.array([halves], dtype=np.uint8)
    np.testing.assert_allclose(luminance(image, BASICSR), [[52.5, 52.5, 125.5, 198.5]])
    np.testing.assert_array_equal(luminance(image, RAIN200), [[53, 53, 126, 199]])


@pytest.mark.parametrize("protocol", ALL)
def test_luminance_of_every_16th_colour(protocol: str) -> None:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3)
    expected = loop_luminance(image, rounded=protocol == "rain200")
    np.testing.assert_allclose(
        luminance(image, get_protocol(protocol)), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("size", [(11, 11), (17, 24), (23, 15)])
@pytest.mark.parametrize("protocol", ALL)
def test_scores_equal_the_definition(protocol: str, size: tuple[int, int]) -> None:
    restored, target = random_pair(*size)
    rounded = protocol == "rain200"
    x, y = loop_luminance(restored, rounded), loop_luminance(target, rounded)
    assert psnr(restored, target, protocol) == pytest.approx(loop_psnr(x, y), abs=1e-9)
    if protocol in WITH_SSIM:
        assert ssim(restored, target, protocol) == pytest.approx(loop_ssim(x, y), abs=1e-10)
    else:
        assert ssim(restored, target, protocol) is None


@pytest.mark.parametrize("factor", range(1, 7))
def test_box_downsample_windows_and_borders(factor: int) -> None:
    plane = np.random.default_rng(factor).uniform(0, 255, (13, 18))
    expected = loop_shrunk(plane.tolist(), factor)
    np.testing.assert_allclose(box_downsample(plane, factor), expected, rtol=0, atol=1e-10)


# Windows, counted from the kept pixel: 0..1 for 2, -1..1 for 3, -1..2 for 4.
@pytest.mark.parametrize(
    ("plane", "factor", "expected"),
    [
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 2, [[3, 4.5], [7.5, 9]]),
        ([[0, 3, 6, 9]], 3, [[1, 8]]),
        ([[0], [4], [8], [12], [16]], 4, [[3], [14]]),
    ],
)
def test_box_downsample_by_hand(
    plane: list[list[float]], factor: int, expected: list[list[float]]
) -> None:
    np.testing.assert_allclose(
        box_downsample(np.array(plane, np.float64), factor), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("side", "factor"),
    [(1, 1), (383, 1), (384, 2), (385, 2), (639, 2), (640, 3), (895, 3), (896, 4), (1152, 5)],
)
def test_downsampling_factor_is_of_the_shorter_side(side: int, factor: int) -> None:
    assert downsampling_factor(side, side + 500) == factor
    assert downsampling_factor(side + 500, side) == factor


def test_downsampling_leaves_room_for_the_window() -> None:
    """So that an image of at least 11 x 11 pixels always has an SSIM."""
    shrunk = [-(-side // downsampling_factor(side, side)) for side in range(384, 4096)]
    assert min(shrunk) == 192


# 384 / 256 is 1.5 and rounds to 2; 640 / 256 is 2.5 and rounds to 3 (to even it would be 2).
@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((512, 512), 2),
        ((384, 385), 2),
        ((385, 641), 2),
        ((767, 513), 2),
        ((640, 641), 3),
        ((897, 896), 4),
    ],
)
def test_did_ddn_shrinks_large_images_for_ssim_only(size: tuple[int, int], factor: int) -> None:
    restored, target = random_pair(*size)
    x, y = (
        luminance(restored, DID_DDN).tolist(),
        luminance(target, DID_DDN).tolist(),
    )
    small_x, small_y = loop_shrunk(x, factor), loop_shrunk(y, factor)
    assert ssim(restored, target, "did_ddn") == pytest.approx(loop_ssim(small_x, small_y), abs=1e-9)
    assert psnr(restored, target, "did_ddn") == pytest.approx(loop_psnr(x, y), abs=1e-9)


def test_did_ddn_keeps_images_below_384_pixels() -> None:
    restored, target = random_pair(383, 40)
    x, y = (
        luminance(restored, DID_DDN).tolist(),
        luminance(target, DID_DDN).tolist(),
    )
    assert ssim(restored, target, "did_ddn") == pytest.approx(loop_ssim(x, y), abs=1e-10)


def test_studio_range_not_full_range() -> None:
    """One grey level off everywhere: full-range Y would score 1.32 dB less."""
    target = np.full((16, 16, 3), 100, np.uint8)
    full_range = 20 * math.log10(255)
    assert psnr(target + np.uint8(1), target, "did_ddn") == pytest.approx(
        full_range + 20 * math.log10(255 / 219)
    )


@pytest.mark.parametrize("protocol", WITH_SSIM)
def test_ssim_of_flat_images_compares_their_means(protocol: str) -> None:
    black, white = (np.full((12, 13, 3), level, np.uint8) for level in (0, 255))
    c1 = 6.5025
    expected = (2 * 16 * 235 + c1) / (16**2 + 235**2 + c1)
    assert ssim(black, white, protocol) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("protocol", ALL)
def test_identical_images(protocol: str) -> None:
    _, target = random_pair(20, 20)
    assert psnr(target, target.copy(), protocol) == math.inf
    assert ssim(target, target.copy(), protocol) == (1 if protocol in WITH_SSIM else None)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("protocol", ALL)
def test_errors(metric, protocol: str) -> None:
    _, target = random_pair(20, 24)
    with pytest.raises(ValueError, match="it is 24 x 19 pixels, its target 24 x 20"):
        metric(target[:19], target, protocol)
    with pytest.raises(ValueError, match=r"restored: scores are defined on uint8 .* float32"):
        metric(target.astype(np.float32), target, protocol)
    with pytest.raises(ValueError, match=r"target: expected an RGB image .* \(20, 24\)"):
        metric(target, target[..., 0], protocol)
    with pytest.raises(ValueError, match="unknown protocol 'y'"):
        metric(target, target, "y")


@pytest.mark.parametrize("protocol", WITH_SSIM)
@pytest.mark.parametrize("size", [(10, 30), (30, 10), (1, 1)])
def test_too_small_for_the_window(protocol: str, size: tuple[int, int]) -> None:
    restored, target = random_pair(*size)
    with pytest.raises(ValueError, match=f"at least 11 x 11 pixels, got {size[1]} x {size[0]}"):
        ssim(restored, target, protocol)
    assert math.isfinite(psnr(restored, target, protocol))


def test_values_of_the_papers_programs(shared_dir: Path) -> None:
    """Rainy input against target, as the papers' MATLAB programs score them under GNU Octave."""
    with (shared_dir / "goldens" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for row in rows:
        folder = shared_dir / "data" / row["set"]
        rainy = read_rgb(folder / "input" / row["name"])
        target = read_rgb(folder / "target" / row["name"])
        for protocol in WITH_SSIM:
            where = f"{row['set']} {row['name']} {protocol}"
            expected = float(row[f"{protocol}_psnr"]), float(row[f"{protocol}_ssim"])
            assert abs(psnr(rainy, target, protocol) - expected[0]) < 1e-6, where
            assert abs(ssim(rainy, target, protocol) - expected[1]) < 1e-8, where


TARGET = np.random.default_rng(0).integers(0, 200, (16, 20, 3)).astype(np.uint8)
RESTORED, RAINY = TARGET + np.uint8(4), TARGET + np.uint8(9)


@pytest.mark.parametrize("protocol", ["rain200", "did_ddn", "basicsr"])
def test_a_restored_image_and_the_rainy_one(protocol: str) -> None:
    expected = {
        "psnr": psnr(RESTORED, TARGET, protocol),
        "ssim": ssim(RESTORED, TARGET, protocol),
        "input_psnr": psnr(RAINY, TARGET, protocol),
        "input_ssim": ssim(RAINY, TARGET, protocol),
    }
    assert (expected["ssim"] is None) == (protocol == "basicsr")
    expected = {field: value for field, value in expected.items() if value is not None}
    pair = {"input": RAINY, "target": TARGET, "name": "1"}
    assert score_restored(pair, RESTORED, protocol) == expected
    assert score(RAINY, TARGET, protocol).items() == {
        (field.removeprefix("input_"), value)
        for field, value in expected.items()
        if field.startswith("input")
    }


def test_whose_mistake_a_bad_pair_is() -> None:
    pair = {"input": RAINY[:12], "target": TARGET, "name": "001"}
    with pytest.raises(UserError, match=r"001: the rainy .* it is 20 x 12 pixels, its target 20 x"):
        score_restored(pair, RESTORED, "rain200")
    pair["input"] = RAINY
    with pytest.raises(ValueError, match="001: it is 20 x 8 pixels, its target 20 x 16"):
        score_restored(pair, RESTORED[:8], "rain200")
    with pytest.raises(ValueError, match=r"001: .* uint8 arrays, got float64"):
        score_restored(pair, RESTORED / 255, "rain200")
    small = {"input": RAINY[:8], "target": TARGET[:8], "name": "tiny"}
    with pytest.raises(UserError, match=r"tiny: .* at least 11 x 11"):
        score_restored(small, RESTORED[:8], "rain200")
    assert score_restored(small, RESTORED[:8], "basicsr").keys() == {"psnr", "input_psnr"}
