"""Synthetic rain: reproducible, as heavy as it says, and drawn without artefacts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from drsformer_jax.data.images import list_images, read_rgb
from drsformer_jax.data.synthetic.rain import RainLayer, RainParameters, add_rain, sample_rain

BLACK = np.zeros((120, 120, 3), np.uint8)


def rain(level: str, seed: int, clean: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return add_rain(clean, sample_rain(level, rng), rng)


def one_layer(**changes: float) -> RainParameters:
    layer = RainLayer(density=20, length=30, width=2.0, brightness=0.5, angle=0.0, angle_spread=0.0)
    return RainParameters((dataclasses.replace(layer, **changes),), mist=0.0, airlight=0.8)


def luma_psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Y-PSNR in dB, studio range, not rounded."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    error = (image.astype(np.float64) - clean) @ weights
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def photograph() -> np.ndarray:
    """A smooth picture of middling brightness with some texture."""
    y, x = np.mgrid[0:200, 0:240] / 40.0
    channels = [110 + 60 * np.sin(x + phase) * np.cos(y - phase) for phase in (0.0, 0.5, 1.0)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("level", ["light", "medium", "heavy", "mixed"])
def test_the_same_seed_gives_the_same_bytes(level: str) -> None:
    clean = photograph()
    before = clean.copy()
    first = rain(level, 3, clean)
    assert first.dtype == np.uint8
    assert first.shape == clean.shape
    np.testing.assert_array_equal(first, rain(level, 3, clean))
    assert (first != rain(level, 4, clean)).any()
    np.testing.assert_array_equal(clean, before)


def test_levels_are_as_heavy_as_the_benchmarks() -> None:
    clean = photograph()
    psnr = {
        level: np.mean([luma_psnr(rain(level, seed, clean), clean) for seed in range(40)])
        for level in ("light", "medium", "heavy")
    }
    assert 25 < psnr["light"] < 29  # Rain100L: 26.9 dB
    assert 18 < psnr["medium"] < 23
    assert 13 < psnr["heavy"] < 17  # Rain100H: 13.6 dB, Rain200H somewhat more


def test_real_photographs_get_the_psnr_of_the_benchmarks(shared_dir: Path) -> None:
    paths = list_images(shared_dir / "data" / "rain100l" / "val" / "target")
    cleans = [read_rgb(path) for path in paths]
    light = [luma_psnr(rain("light", i, clean), clean) for i, clean in enumerate(cleans)]
    heavy = [luma_psnr(rain("heavy", i, clean), clean) for i, clean in enumerate(cleans)]
    assert 25 < np.mean(light) < 29
    assert 12.5 < np.mean(heavy) < 17


def test_mixed_draws_all_levels() -> None:
    mist = [sample_rain("mixed", np.random.default_rng(i)) for i in range(100)]
    far = [parameters.layers[-1].density for parameters in mist if len(parameters.layers) == 3]
    assert min(far) < 30
    assert max(far) > 130


def test_without_mist_rain_only_brightens_and_equally_in_all_channels() -> None:
    clean = photograph()
    difference = add_rain(clean, one_layer(), np.random.default_rng(0)).astype(int) - clean
    unclipped = clean.max(axis=-1) + difference.max(axis=-1) < 255
    assert difference.min() == 0
    assert difference.max() > 40
    assert np.ptp(difference, axis=-1)[unclipped].max() == 0


def test_mist_pulls_towards_the_airlight() -> None:
    parameters = RainParameters((), mist=0.2, airlight=0.8)
    dark = add_rain(BLACK, parameters, np.random.default_rng(0))
    bright = add_rain(BLACK + 255, parameters, np.random.default_rng(0))
    assert 0.1 * 204 - 1 <= dark.min() < dark.max() <= 0.3 * 204 + 1
    assert (bright < 255).all()
    assert np.abs(np.diff(dark[..., 0].astype(int), axis=0)).max() <= 2


@pytest.mark.parametrize("angle", [-40.0, -12.0, 0.0, 25.0])
def test_streaks_have_the_angle_asked_for(angle: float) -> None:
    layer = one_layer(angle=angle, length=60, density=1)
    image = add_rain(np.zeros((300, 300, 3), np.uint8), layer, np.random.default_rng(0))[..., 0]
    streaks, count = ndimage.label(image > 8)
    directions = []
    for number in range(1, count + 1):
        rows, columns = np.nonzero(streaks == number)
        if len(rows) > 40:
            # The principal axis of the streak's pixels.
            _, axes = np.linalg.eigh(np.cov(np.stack([columns, rows])))
            directions.append(np.degrees(np.arctan(axes[0, 1] / axes[1, 1])))
    assert len(directions) > 5
    assert np.median(directions) == pytest.approx(angle, abs=1.0)


def test_wider_and_longer_streaks_are_wider_and_longer() -> None:
    def covered(**changes: float) -> float:
        rainy = [
            add_rain(BLACK, one_layer(brightness=0.2, **changes), np.random.default_rng(seed))
            for seed in range(60)
        ]
        return float(np.mean([image.astype(np.float64).mean() for image in rainy]))

    assert covered(width=4.0) == pytest.approx(2 * covered(), rel=0.1)
    assert covered(length=60) == pytest.approx(2 * covered(), rel=0.1)
    # Below a pixel a streak keeps its light though it cannot be drawn any thinner.
    assert covered(width=0.5) == pytest.approx(covered() / 4, rel=0.15)


def test_rain_is_as_dense_at_the_borders_as_in_the_middle() -> None:
    total = np.zeros((60, 60))
    for seed in range(150):
        parameters = one_layer(length=50, angle=20.0, density=30, brightness=0.1)
        total += add_rain(BLACK[:60, :60], parameters, np.random.default_rng(seed))[..., 0]
    mean = total.mean()
    for border in (total[:4], total[-4:], total[:, :4], total[:, -4:]):
        assert border.mean() == pytest.approx(mean, rel=0.12)


@pytest.mark.parametrize("angle", [0.0, 30.0, -30.0])
def test_nothing_wraps_around(angle: float) -> None:
    """Light on one border never comes back at the other, nor on the next row."""
    checked = 0
    for seed in range(60):
        parameters = one_layer(density=0.3, angle=angle, width=4.0)
        image = add_rain(BLACK, parameters, np.random.default_rng(seed))[..., 0]
        components, _ = ndimage.label(image > 0, structure=np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(components):
            if (columns.start == 0 or columns.stop == 120) and 10 < rows.start < rows.stop < 110:
                checked += 1
                nearby = slice(rows.start - 2, rows.stop + 2)
                opposite = slice(-3, None) if columns.start == 0 else slice(0, 3)
                assert not image[nearby, opposite].any()
    assert checked > 3


def test_streaks_are_antialiased() -> None:
    """The light on each row changes smoothly along slanted streaks, wherever they fall."""
    layer = one_layer(density=12, width=1.0, length=90, angle=7.0, brightness=0.2)
    for seed in range(10):
        image = add_rain(BLACK, layer, np.random.default_rng(seed))[..., 0]
        light = image.astype(np.float64).sum(axis=1)
        assert np.abs(np.diff(light, 2)).max() < 0.1 * light.max()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (50, 2, 3)])
def test_tiny_images(shape: tuple[int, int, int]) -> None:
    assert rain("heavy", 0, np.zeros(shape, np.uint8)).shape == shape


def test_no_streaks_and_no_mist_change_nothing() -> None:
    clean = photograph()
    parameters = RainParameters((), mist=0.0, airlight=0.8)
    np.testing.assert_array_equal(add_rain(clean, parameters, np.random.default_rng(0)), clean)
    parameters = one_layer(density=0.0)
    np.testing.assert_array_equal(add_rain(clean, parameters, np.random.default_rng(0)), clean)


def test_mistakes_are_told() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="level"):
        sample_rain("torrential", rng)
    with pytest.raises(ValueError, match="uint8"):
        add_rain(BLACK.astype(np.float32), one_layer(), rng)
    with pytest.raises(ValueError, match="degrees"):
        add_rain(BLACK, one_layer(angle=60.0), rng)
