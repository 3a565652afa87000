"""Each kind of fault is planted, and found where it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference.miniature_sets import MINIATURES, clean, ddn, rain200, rain800, rainy, save

from drsformer_jax.data import sets
from drsformer_jax.datasets import verification
from drsformer_jax.datasets.verification import KINDS, verify
from drsformer_jax.datasets.verification_report import document, text
from drsformer_jax.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rain200(tmp_path)
    return tmp_path


def small(name: str, **changes: object) -> sets.DataSet:
    return sets.DataSet(**{**vars(sets.get_set(name)), "pairs": MINIATURES[name][1], **changes})


@pytest.mark.parametrize("name", MINIATURES)
def test_nothing_is_wrong_with_a_good_set(name: str, tmp_path: Path) -> None:
    make, counts = MINIATURES[name]
    make(tmp_path)
    found = verify(tmp_path, small(name, input_psnr={}))
    assert found.faults == ()
    assert {split: report.pairs for split, report in found.splits.items()} == counts
    assert "nothing is wrong" in text(found)


def faults(root: Path, kind: str, data_set: sets.DataSet | None = None) -> list[str]:
    """Messages of a kind, without the folder; there must be no other kind."""
    found = verify(root, data_set)
    assert {fault.kind for fault in found.faults} == {kind}, found.faults
    assert KINDS[kind] in text(found)
    return [fault.message.replace(f"{root}/", "") for fault in found.faults]


def test_counts(root: Path) -> None:
    assert faults(root, "count", sets.get_set("rain200h")) == [
        "test: 2 readable pairs, not 200", "train: 4 readable pairs, not 1,800",
    ]  # fmt: skip


def test_a_whole_split_that_is_missing(root: Path) -> None:
    shutil.rmtree(root / "test")
    assert faults(root, "count", small("rain200h")) == ["test: is not there, 2 pairs are missing"]


def test_partners(root: Path) -> None:
    (root / "train/target/3.png").unlink()
    (root / "test/input/1.png").unlink()
    shutil.copy(root / "train/input/4.png", root / "train/input/4.bmp")
    assert faults(root, "partner") == [
        "test/target/1.png: no partner in input/",
        "train/input/3.png: no partner in target/",
        "train/input/4.png: 4.bmp has the same name without suffix",
    ]


def test_files_that_cannot_be_read(root: Path) -> None:
    for name in ("train/input/1.png", "train/target/2.png"):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:-60])
    found = faults(root, "unreadable")
    assert [message.partition(":")[0] for message in found] == [
        "train/input/1.png", "train/target/2.png",
    ]  # fmt: skip
    assert verify(root).splits["train"].pairs == 2


def test_a_broken_clean_image_does_not_hide_its_rainy_one(root: Path) -> None:
    for side in ("input", "target"):
        (root / f"train/{side}/2.png").write_bytes(b"not an image")
    assert [message.partition(":")[0] for message in faults(root, "unreadable")] == [
        "train/target/2.png", "train/input/2.png",
    ]  # fmt: skip


def test_empty_folders(tmp_path: Path) -> None:
    for side in ("input", "target"):
        (tmp_path / "train" / side).mkdir(parents=True)
    assert faults(tmp_path, "count") == ["train: no readable pairs"]


def test_sizes(root: Path) -> None:
    with Image.open(root / "train/input/2.png") as image:
        image.crop((0, 0, 40, 33)).save(root / "train/input/2.png")
    assert faults(root, "size") == ["train/input/2.png is 40x33 but train/target/2.png is 49x33"]


def test_no_rain(root: Path) -> None:
    shutil.copy(root / "train/target/2.png", root / "train/input/2.png")
    assert faults(root, "no_rain") == ["train/input/2.png: is its target, pixel by pixel"]


def test_duplicates(root: Path) -> None:
    # The same pixels in another file, with another rain; and another clean image with that rain.
    save(root / "train/target/5.png", np.asarray(Image.open(root / "train/target/2.png")))
    save(root / "train/input/5.png", rainy(clean(1), 77))
    assert faults(root, "duplicate") == [
        "train/target/2.png and train/target/5.png: the same pixels"
    ]
    save(root / "train/target/5.png", clean(55))
    shutil.copy(root / "train/input/2.png", root / "train/input/5.png")
    assert faults(root, "duplicate") == ["train/input/2.png and train/input/5.png: the same pixels"]


def test_versions_of_a_photograph_are_no_duplicates(tmp_path: Path) -> None:
    ddn(tmp_path)
    found = verify(tmp_path)
    assert found.splits["train"].targets == 2
    assert found.faults == ()


@pytest.mark.parametrize("change", ["none", "flip", "turn", "half", "jpeg", "bright"])
def test_leaks(root: Path, change: str) -> None:
    with Image.open(root / "train/target/2.png") as opened:
        image = opened.copy()
    if change == "flip":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif change == "turn":
        image = image.transpose(Image.Transpose.ROTATE_90)
    elif change == "half":
        image = image.resize((24, 16), Image.Resampling.BICUBIC)
    elif change == "bright":
        image = image.point(lambda value: value * 1.1 + 5)
    suffix = "jpg" if change == "jpeg" else "png"
    (root / "test/target/1.png").unlink()
    image.save(root / f"test/target/1.{suffix}", quality=30)
    save(root / "test/input/1.png", rainy(np.asarray(image), 5))
    (message,) = faults(root, "leak")
    assert message.startswith(f"test/target/1.{suffix} and train/target/2.png: ")
    assert ("the same pixels" in message) == (change == "none")


def test_leaks_of_files_that_hold_both_sides(tmp_path: Path) -> None:
    rain800(tmp_path)
    bright = np.clip(clean(1) * 1.2, 0, 255).astype(np.uint8)
    save(tmp_path / "test_syn/1.jpg", np.concatenate([bright, rainy(bright, 9)], axis=1))
    (message,) = faults(tmp_path, "leak", small("rain800"))
    assert message.startswith("test_syn/1.jpg and training/1.jpg: look alike (")


def test_known_psnr_of_the_rainy_images(root: Path) -> None:
    found = verify(root).splits["test"].input_psnr
    assert found is not None
    near = small("rain200h", input_psnr={"test": found + 0.04})
    assert verify(root, near).faults == ()
    far = small("rain200h", input_psnr={"test": found + 0.2})
    assert faults(root, "input_psnr", far) == [
        f"test: {found:.2f} dB, but {found + 0.2:.2f} dB is known (rain200)"
    ]


def test_large_splits_are_compared_by_equal_pixels(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MOST_COMPARED", 3)
    for source, name in (("2", "5"), ("3", "6")):
        with Image.open(root / f"train/target/{source}.png") as image:
            copy = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if name == "6" else image
            copy.save(root / f"train/target/{name}.png")
        save(root / f"train/input/{name}.png", rainy(clean(1), int(name)))
    assert faults(root, "duplicate") == [
        "train/target/2.png and train/target/5.png: the same pixels"
    ]
    assert "too large to compare" in text(verify(root))


def test_report(root: Path) -> None:
    found = document(verify(root, sets.get_set("rain200h")))
    assert found["data_set"] == "rain200h"
    assert found["splits"]["train"]["sizes"] == {"49x33": 2, "33x49": 2}
    assert [fault["kind"] for fault in found["faults"]] == ["count", "count"]


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        verify(tmp_path / "nowhere")
