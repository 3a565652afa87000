"""Colours, turns and odd sizes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from reference.films import derain, scene, see, write_film

from drsformer_jax.film.encoding import Encoding


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("span", [1, 2], ids=["limited", "full"])
def test_colours_come_back(matrix: int, span: int, tmp_path: Path) -> None:
    tags = (matrix, span, matrix, {9: 14}.get(matrix, matrix))
    source = write_film(tmp_path / "wet.mp4", frames=2, tags=tags)
    shown: list[np.ndarray] = []
    written, _ = derain(source, restore=lambda image: shown.append(image) or image)
    # What the network sees is what was filmed, but for the codec.
    assert np.abs(shown[0] - scene(0).astype(float)).mean() < 1.5
    before, after = see(source), see(written)
    assert after.tags == before.tags == tags
    # Chroma rounds to a neighbour on its way to 8 bits of RGB and back.
    assert np.abs((after.planes() - before.planes()).mean(axis=(0, 2, 3))).max() < 1


def test_untagged_colours_stay_so(tmp_path: Path) -> None:
    source = write_film(tmp_path / "wet.mkv", frames=2, tags=(2, 0, 2, 2))
    written, _ = derain(source)
    before, after = see(source), see(written)
    assert after.tags == before.tags == (2, 0, 2, 2)
    assert np.abs((after.planes() - before.planes()).mean(axis=(0, 2, 3))).max() < 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_upright(degrees: int, tmp_path: Path) -> None:
    aspect = Fraction(4, 3)
    source = write_film(tmp_path / "wet.mov", frames=2, rotation=degrees, aspect=aspect)
    shown: list[np.ndarray] = []
    written, _ = derain(source, restore=lambda image: shown.append(image) or image)
    expected = np.rot90(scene(0), degrees // 90)
    assert np.abs(shown[0] - expected.astype(float)).mean() < 1.5
    after = see(written)
    assert after.size == expected.shape[:2]
    assert after.frames[0].rotation == 0
    assert after.aspect == (aspect if degrees == 180 else 1 / aspect)


def test_odd_sizes_get_a_row_and_a_column(tmp_path: Path) -> None:
    source = write_film(
        tmp_path / "wet.mkv", frames=2, size=(23, 31), codec="mpeg4", tick=Fraction(1, 25)
    )
    shown: list[np.ndarray] = []
    written, _ = derain(source, restore=lambda image: shown.append(image) or image)
    assert shown[0].shape == (23, 31, 3)
    after = see(written)
    assert after.size == (24, 32)
    luma = after.frames[0].to_ndarray()[:24].astype(int)
    assert np.abs(luma[23] - luma[22]).max() < 4
    # An encoder that takes them keeps them.
    kept, _ = derain(source, tmp_path / "kept.mkv", encoding=Encoding("ffv1"))
    assert see(kept).size == (23, 31)
