"""Folders of pairs: all that is wrong is named at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.data import sources
from drsformer_jax.data.images import write_png
from drsformer_jax.data.sources import PairedFolder
from drsformer_jax.errors import UserError


def image(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four good pairs: input i holds image(i), target i image(100 + i)."""
    for offset, side in ((0, "input"), (100, "target")):
        (tmp_path / side).mkdir()
        for i in range(4):
            write_png(tmp_path / side / f"{i:03d}.png", image(offset + i))
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def test_pairs_by_name(root: Path) -> None:
    folder = PairedFolder(root)
    assert len(folder) == 4
    assert folder.names == ["000", "001", "002", "003"]
    pair = folder[2]
    assert pair["name"] == "002"
    np.testing.assert_array_equal(pair["input"], image(2))
    np.testing.assert_array_equal(pair["target"], image(102))


def test_suffixes_may_differ_and_other_files_are_left_out(root: Path) -> None:
    (root / "input" / "001.png").unlink()
    Image.fromarray(image(1)).save(root / "input" / "001.jpg")
    (root / "input" / "Thumbs.db").touch()
    assert PairedFolder(root).names == ["000", "001", "002", "003"]


def test_folder_names_can_be_chosen(root: Path) -> None:
    (root / "input").rename(root / "rainy")
    (root / "target").rename(root / "norain")
    assert len(PairedFolder(root, "rainy", "norain")) == 4


def test_everything_wrong_is_named_at_once(root: Path) -> None:
    truncate(root / "input" / "000.png")
    truncate(root / "target" / "000.png")
    write_png(root / "target" / "001.png", image(0, 12, 17))
    (root / "target" / "002.png").unlink()
    write_png(root / "target" / "lonely.png", image(0))
    truncate(root / "target" / "lonely.png")
    (root / "input" / "003.jpg").write_text("not an image")
    with pytest.raises(UserError) as error:
        PairedFolder(root)
    message = str(error.value)
    assert "\n" not in message
    assert "8 problems" in message
    for part in (
        "input/000.png: cannot be decoded",
        "target/000.png: cannot be decoded",
        "16x12",
        "17x12",
        "input/002.png: no partner in target/",
        "target/lonely.png: no partner in input/",
        "target/lonely.png: cannot be decoded",
        "003.jpg: not an image",
        "003.png: 003.jpg has the same name",
    ):
        assert part in message, part


def test_long_lists_are_cut_with_their_number(root: Path) -> None:
    for i in range(30):
        write_png(root / "input" / f"extra{i:02d}.png", image(0))
    with pytest.raises(UserError, match=r"30 problems .* and 10 more$") as error:
        PairedFolder(root)
    assert "extra19" in str(error.value)
    assert "extra20" not in str(error.value)


def test_verification_can_come_later(root: Path) -> None:
    truncate(root / "input" / "003.png")
    folder = PairedFolder(root, verify=False)
    with pytest.raises(UserError, match=r"input/003\.png"):
        folder.verify()
    (root / "input" / "003.png").unlink()
    with pytest.raises(UserError, match=r"target/003\.png: no partner"):
        PairedFolder(root, verify=False)


def test_empty_and_missing_folders(root: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        PairedFolder(root / "nowhere")
    with pytest.raises(UserError, match="norain: no such folder"):
        PairedFolder(root, target_dir="norain")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no images"):
        PairedFolder(root, "empty")


def test_folders_without_a_common_name(root: Path) -> None:
    for i in range(4):
        (root / "target" / f"{i:03d}.png").rename(root / "target" / f"x{i:03d}.png")
    with pytest.raises(UserError, match="8 problems"):
        PairedFolder(root)


def test_the_cache_decodes_once_and_keeps_what_fits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def counting(path: Path) -> np.ndarray:
        decoded.append(path)
        return np.asarray(Image.open(path)).copy()

    monkeypatch.setattr(sources, "read_rgb", counting)
    # Room for five of the eight images.
    monkeypatch.setattr(sources, "CACHE_LIMIT_BYTES", 5 * 12 * 16 * 3)
    folder = PairedFolder(root, cache=True)
    assert len(decoded) == 8
    for i in range(4):
        pair = folder[i]
        np.testing.assert_array_equal(pair["input"], image(i))
        np.testing.assert_array_equal(pair["target"], image(100 + i))
    assert len(decoded) == 8 + 3
    with pytest.raises(ValueError, match="read-only"):
        folder[0]["input"][0, 0] = 0

    decoded.clear()
    uncached = PairedFolder(root, verify=False)
    _ = uncached[0], uncached[0]
    assert len(decoded) == 4


def test_real_pairs_verify(shared_dir: Path) -> None:
    folder = PairedFolder(shared_dir / "data" / "rain100h" / "val")
    assert len(folder) == 20
    assert folder[0]["input"].shape == folder[0]["target"].shape


def test_other_names_of_the_two_sides(root: Path) -> None:
    (root / "rain").mkdir()
    (root / "input").rename(root / "rain" / "X2")
    (root / "target").rename(root / "norain")
    for i in range(4):
        (root / "rain" / "X2" / f"{i:03d}.png").rename(root / "rain" / "X2" / f"norain-{i}x2.png")
        (root / "norain" / f"{i:03d}.png").rename(root / "norain" / f"norain-{i}.png")
    folder = PairedFolder(root)
    assert folder.names == [f"norain-{i}x2" for i in range(4)]
    np.testing.assert_array_equal(folder[3]["target"], image(103))
