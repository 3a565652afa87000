"""The folders and files in which data sets come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference.miniature_sets import clean, rain100_at_first, rain200, rain800, save

from drsformer_jax.data.images import write_png
from drsformer_jax.data.sources import Split
from drsformer_jax.data.splits import HalvedImages, find_splits
from drsformer_jax.errors import UserError


def image(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_splits_and_sides(tmp_path: Path) -> None:
    rain200(tmp_path / "a")
    assert find_splits(tmp_path / "a") == {
        name: Split(tmp_path / "a" / name, "input", "target") for name in ("train", "test")
    }
    rain100_at_first(tmp_path / "b")
    found = find_splits(tmp_path / "b")
    assert found["test"] == Split(tmp_path / "b" / "test", "rain/X2", "norain")
    assert find_splits(tmp_path / "b" / "train") == {
        "all": Split(tmp_path / "b" / "train", "rain/X2", "norain")
    }


def test_one_file_a_pair(tmp_path: Path) -> None:
    rain800(tmp_path)
    assert find_splits(tmp_path, halves=True) == {
        "train": Split(tmp_path / "training", None, None),
        "test": Split(tmp_path / "test_syn", None, None),
    }


def test_nothing_of_the_kind(tmp_path: Path) -> None:
    save(tmp_path / "train" / "input" / "1.png", clean(0))
    with pytest.raises(UserError, match=r"holds no train/ or test/ with input/ and target/"):
        find_splits(tmp_path)
    with pytest.raises(UserError, match="holds no train/ or test/ with images"):
        find_splits(tmp_path, halves=True)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_splits(tmp_path / "nowhere")


def test_halves_of_one_file(tmp_path: Path) -> None:
    for i in range(2):
        both = np.concatenate([image(100 + i), image(i)], axis=1)
        write_png(tmp_path / f"{i}.png", both)
    halves = HalvedImages(tmp_path, cache=True)
    assert len(halves) == 2
    np.testing.assert_array_equal(halves[1]["input"], image(1))
    np.testing.assert_array_equal(halves[1]["target"], image(101))
    Image.fromarray(image(0, 12, 18)).save(tmp_path / "1.bmp")
    with pytest.raises(UserError, match=r"1\.png: 1\.bmp has the same name"):
        HalvedImages(tmp_path, verify=False)
    (tmp_path / "1.bmp").unlink()
    write_png(tmp_path / "odd.png", image(0, 12, 17))
    cut_short = tmp_path / "0.png"
    cut_short.write_bytes(cut_short.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"0\.png.*odd\.png: is 17 pixels wide: no two halves"):
        HalvedImages(tmp_path)
