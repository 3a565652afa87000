"""The folders in which data sets come."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference.miniature_sets import clean, rain100_at_first, rain200, rain800, save

from drsformer_jax.data.layout import Split, find_splits
from drsformer_jax.errors import UserError


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
