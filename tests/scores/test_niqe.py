"""NIQE against its definition written out plainly, and what it says of worse and worse images."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from drsformer_jax.data.images import read_rgb
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.data.synthetic.rain import add_rain, sample_rain
from drsformer_jax.scores.niqe import (
    block_features,
    fit_asymmetric,
    grey,
    half_size,
    niqe,
    normalised,
)
from drsformer_jax.scores.niqe_model import packaged


def scored(image: np.ndarray) -> float:
    model = packaged()
    return niqe(image, model.mean, model.covariance)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of several sizes and some edges, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(0, 1, (height, width)), s) * s for s in (0.5, 2, 8)]
    plane = sum(noise) * 40 + 80 * (np.indices((height, width)).sum(0) // 60 % 2) + 80
    return to_bytes(plane[..., None] + rng.normal(0, 3, (height, width, 3)))


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    """A photograph that the packaged model has not seen, uint8 (300, 451, 3)."""
    pytest.importorskip("skimage", reason="photographs come with scikit-image (extra: demo)")
    return dict(embedded_photographs("train"))["chelsea"]


# The definition, slowly: one pixel, one block at a time, two-dimensional windows, no tricks.


def slow_fit(samples: np.ndarray) -> tuple[float, float, float]:
    samples = [float(sample) for sample in samples.ravel()]
    below = [s * s for s in samples if s < 0]
    above = [s * s for s in samples if s > 0]
    left, right = math.sqrt(sum(below) / len(below)), math.sqrt(sum(above) / len(above))
    r = (sum(map(abs, samples)) / len(samples)) ** 2 / (sum(s * s for s in samples) / len(samples))
    g = left / right
    wanted = r * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    best, shape = math.inf, math.nan
    for step in range(200, 10001):
        a = step / 1000
        rho = math.exp(2 * math.lgamma(2 / a) - math.lgamma(1 / a) - math.lgamma(3 / a))
        if abs(rho - wanted) < best:
            best, shape = abs(rho - wanted), a
    scale = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    return shape, left * scale, right * scale


def slow_normalised(plane: np.ndarray) -> np.ndarray:
    window = np.array(
        [
            [math.exp(-(i * i + j * j) / (2 * (7 / 6) ** 2)) for j in range(-3, 4)]
            for i in range(-3, 4)
        ]
    )
    window /= window.sum()
    padded = np.pad(plane, 3, mode="edge")
    result = np.empty_like(plane)
    for i in range(plane.shape[0]):
        for j in range(plane.shape[1]):
            patch = padded[i : i + 7, j : j + 7]
            mean = np.sum(window * patch)
            result[i, j] = (plane[i, j] - mean) / (
                math.sqrt(np.sum(window * (patch - mean) ** 2)) + 1
            )
    return result


def slow_half_size(plane: np.ndarray) -> np.ndarray:
    """MATLAB's imresize by 0.5: a cubic kernel of eight pixels at the centre of each output."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0

    for _ in range(2):
        # Rows, then, turned over, columns.
        padded = np.pad(plane, ((4, 4), (0, 0)), mode="symmetric")
        rows = []
        for i in range(plane.shape[0] // 2):
            taps = range(2 * i - 3, 2 * i + 5)
            weights = [kernel((2 * i + 0.5 - tap) / 2) for tap in taps]
            total = sum(w * padded[tap + 4] for w, tap in zip(weights, taps, strict=True))
            rows.append(total / sum(weights))
        plane = np.array(rows).T
    return plane


def slow_features(block: np.ndarray) -> list[float]:
    size = len(block)
    shape, left, right = slow_fit(block)
    features = [shape, (left + right) / 2]
    for down, across in ((0, -1), (-1, 0), (-1, -1), (-1, 1)):
        products = np.array(
            [
                [block[i, j] * block[(i + down) % size, (j + across) % size] for j in range(size)]
                for i in range(size)
            ]
        )
        shape, left, right = slow_fit(products)
        mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
        features += [shape, mean, left, right]
    return features


@pytest.fixture(scope="module")
def slow_case() -> tuple[np.ndarray, np.ndarray]:
    """An image of 2 x 1 blocks and some rest, and its features."""
    image = textured(200, 110)
    plane = np.rint(image @ [0.298936021293776, 0.587043074451121, 0.114020904255103])[:192, :96]
    full, half = slow_normalised(plane), slow_normalised(slow_half_size(plane))
    features = [
        slow_features(full[96 * b : 96 * b + 96]) + slow_features(half[48 * b : 48 * b + 48])
        for b in range(2)
    ]
    return image, np.array(features)


def test_features_are_the_definition_s(slow_case: tuple[np.ndarray, np.ndarray]) -> None:
    image, expected = slow_case
    found = block_features(image).values
    assert found.shape == (2, 36)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_the_score_is_the_definition_s(slow_case: tuple[np.ndarray, np.ndarray]) -> None:
    image, features = slow_case
    model = packaged()
    centred = features - features.mean(axis=0)
    pooled = (model.covariance + centred.T @ centred / (len(features) - 1)) / 2
    difference = model.mean - features.mean(axis=0)
    expected = math.sqrt(difference @ np.linalg.solve(pooled, difference))
    assert scored(image) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (0.5, 2.0)])
def test_a_known_distribution_is_recovered(shape: float, left: float, right: float) -> None:
    rng = np.random.default_rng(0)
    count = 400_000
    # |x / scale|^shape is Gamma(1 / shape), and each side has as much weight as its scale.
    size = rng.gamma(1 / shape, 1, count) ** (1 / shape)
    is_left = rng.random(count) < left / (left + right)
    found = fit_asymmetric(np.where(is_left, -left * size, right * size))
    np.testing.assert_allclose(found, (shape, left, right), rtol=0.03)


def test_a_fit_needs_samples_on_both_sides() -> None:
    samples = np.array([[1.0, 2, 3], [0, 0, 0], [-1, 1, 2]])
    shape, left, right = fit_asymmetric(samples)
    np.testing.assert_array_equal(np.isnan(shape), [True, True, False])
    np.testing.assert_array_equal(np.isnan(left), [True, True, False])
    assert right[2] > left[2] > 0


def test_grey_is_matlab_s() -> None:
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(grey(np.stack([levels] * 3, -1)[None]), [levels])
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]], np.uint8)
    np.testing.assert_array_equal(grey(primaries), [[76, 150, 29, 226]])


def test_half_size_is_matlab_s() -> None:
    plane = np.random.default_rng(0).normal(100, 20, (12, 10))
    np.testing.assert_allclose(half_size(plane), slow_half_size(plane), rtol=1e-12)
    ramp = np.broadcast_to(np.arange(20.0), (8, 20))
    np.testing.assert_allclose(half_size(ramp)[:, 2:-2], [np.arange(4.5, 16, 2)] * 4, rtol=1e-12)


def test_sharpness_is_the_mean_deviation_in_grey_levels() -> None:
    image = np.full((96, 288, 3), 100, np.uint8)
    image[:, 96:192] += np.random.default_rng(0).integers(0, 2, (96, 96, 1)).astype(np.uint8) * 40
    image[:, 192:] += np.random.default_rng(1).integers(0, 2, (96, 96, 1)).astype(np.uint8) * 20
    sharpness = block_features(image).sharpness
    # The window takes some of the deviation of 20 into its own mean.
    assert 17 < sharpness[1] < 20
    assert sharpness[2] == pytest.approx(sharpness[1] / 2, rel=0.05)
    assert sharpness[0] < 1


@pytest.mark.parametrize("harm", ["blur", "noise", "rain"])
def test_worse_images_score_higher(cat: np.ndarray, harm: str) -> None:
    def harmed(step: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        if harm == "blur":
            return to_bytes(ndimage.gaussian_filter(cat.astype(float), (0.8 * step, 0.8 * step, 0)))
        if harm == "noise":
            return to_bytes(cat + rng.normal(0, 10 * step, cat.shape))
        level = ("light", "medium", "heavy")[step - 1]
        return add_rain(cat, sample_rain(level, np.random.default_rng(1)), rng)

    scores = [scored(cat), *(scored(harmed(step)) for step in (1, 2, 3))]
    assert scores[0] < 4
    assert all(better + 1 < worse for better, worse in itertools.pairwise(scores))


def test_what_lies_beyond_whole_blocks_does_not_count() -> None:
    image = textured(192, 192)
    larger = np.full((250, 287, 3), 7, np.uint8)
    larger[:192, :192] = image
    assert scored(larger) == scored(image)


def test_blocks_at_an_edge_see_it_repeated() -> None:
    image = textured(96, 192)
    repeated = np.pad(image, ((0, 0), (0, 96), (0, 0)), mode="edge")
    found = block_features(repeated)
    # The deviation of the last columns, where mirroring or zeros would differ.
    plane = grey(image)
    edge = normalised(plane)[1][:, -3:]
    np.testing.assert_allclose(normalised(grey(repeated))[1][:, 189:192], edge, rtol=1e-9)
    assert len(found.values) == 3


def test_all_blocks_of_a_large_image_count(monkeypatch: pytest.MonkeyPatch) -> None:
    image = textured(96 * 5, 96 * 8)
    found = block_features(image).values
    assert found.shape == (40, 36)
    monkeypatch.setattr("drsformer_jax.scores.niqe.BLOCKS_AT_A_TIME", 1000)
    np.testing.assert_array_equal(found, block_features(image).values)


def test_flat_blocks_are_no_evidence() -> None:
    """A white sky: exactly nothing there, at any scale, rather than rounding errors."""
    image = np.full((96, 384, 3), 255, np.uint8)
    image[:, :192] = textured(96, 192)
    features = block_features(image).values
    assert not np.isnan(features[:2]).any()
    assert np.isnan(features[3]).all()
    assert math.isfinite(scored(image))
    for level in (1, 77, 200, 255):
        plane = np.full((60, 60), level, float)
        assert not normalised(plane)[0].any()
        assert not normalised(half_size(plane))[0].any()


def test_images_that_have_no_score() -> None:
    with pytest.raises(ValueError, match=r"two blocks of 96 x 96 .* this image has 191 x 120"):
        scored(textured(120, 191))
    with pytest.raises(ValueError, match="this image has 90 x 900"):
        scored(textured(900, 90))
    assert scored(textured(96, 192)) > 0
    with pytest.raises(ValueError, match="not flat, and this image has 0 of 4"):
        scored(np.full((192, 192, 3), 128, np.uint8))
    one = np.full((96, 288, 3), 128, np.uint8)
    one[:, :90] = textured(96, 90)
    with pytest.raises(ValueError, match="not flat, and this image has 1 of 3"):
        scored(one)
    with pytest.raises(ValueError, match="uint8 arrays, got float64"):
        scored(textured(192, 192) / 255)
    with pytest.raises(ValueError, match=r"\(H, W, 3\), got shape \(192, 192\)"):
        scored(textured(192, 192)[..., 0])


def test_grey_and_transparent_files(tmp_path: Path) -> None:
    image = textured(96, 192)
    plane = grey(image).astype(np.uint8)
    Image.fromarray(plane).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([image, np.full((96, 192), 255, np.uint8)])).save(tmp_path / "a.png")
    assert scored(read_rgb(tmp_path / "grey.png")) == scored(image)
    assert scored(read_rgb(tmp_path / "a.png")) == scored(image)


def test_real_photographs(shared_dir: Path) -> None:
    """Rain100L's validation images; numbers of docs/evaluation.md."""
    folder = shared_dir / "data" / "rain100l" / "val"
    means = [
        np.mean([scored(read_rgb(path)) for path in sorted((folder / side).glob("*.png"))])
        for side in ("input", "target")
    ]
    np.testing.assert_allclose(means, [4.265, 3.202], atol=6e-4)
