"""Pairs go by file name; what has no partner is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.pairing import pair_folders


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        Image.new("RGB", (2, 2)).save(path / name)
    return path


def test_pairs_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "b.png", "a.png", "c.1.png")
    targets = folder_of(tmp_path / "targets", "c.1.bmp", "a.jpg", "b.png")
    (results / "scores.txt").write_text("not an image")
    pairs = pair_folders(results, targets)
    assert [(pair.name, pair.result.name, pair.target.name) for pair in pairs] == [
        ("a", "a.png", "a.jpg"),
        ("b", "b.png", "b.png"),
        ("c.1", "c.1.png", "c.1.bmp"),
    ]
    assert all(p.result.parent == results and p.target.parent == targets for p in pairs)


def test_all_missing_partners_are_named_at_once(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "1.png", "2.png", "3.png")
    targets = folder_of(tmp_path / "targets", "3.png", "4.png", "5.png", "6.png")
    with pytest.raises(UserError) as caught:
        pair_folders(results, targets)
    message = str(caught.value)
    assert f"{results} has no partner for 4, 5, 6" in message
    assert f"{targets} has no partner for 1, 2" in message
    assert "\n" not in message


def test_a_name_twice(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "1.png", "1.jpg")
    targets = folder_of(tmp_path / "targets", "1.png")
    with pytest.raises(UserError, match=r"results/1\.png: 1\.jpg has the same name"):
        pair_folders(results, targets)


def test_no_folder_and_empty_folder(tmp_path: Path) -> None:
    targets = folder_of(tmp_path / "targets", "1.png")
    with pytest.raises(UserError, match="nowhere"):
        pair_folders(tmp_path / "nowhere", targets)
    with pytest.raises(UserError, match="empty: no images in this folder"):
        pair_folders(folder_of(tmp_path / "empty"), targets)


def test_schemes_of_the_data_sets(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "9_1.png", "9_2.png", "10_1.png")
    targets = folder_of(tmp_path / "targets", "9.jpg", "10.jpg")
    pairs = pair_folders(results, targets)
    assert [(p.name, p.target.name) for p in pairs] == [
        ("10_1", "10.jpg"), ("9_1", "9.jpg"), ("9_2", "9.jpg"),
    ]  # fmt: skip
