"""All commands take the same image files, name the same others and say what they assume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.data.sources import PairedFolder
from drsformer_jax.inference import memory
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS

NAMES = ("a.jfif", "b.tga", "c.jp2", "d.dib")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """input/ and target/ with images of unusual suffixes, and files that are none."""
    for folder, added in (("input", 9), ("target", 0)):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(NAMES):
            pixels = np.random.default_rng(seed).integers(0, 200, (16, 16, 3), np.uint8)
            Image.fromarray(pixels + np.uint8(added)).save(tmp_path / folder / name)
        (tmp_path / folder / "e.png").symlink_to("nowhere")
        (tmp_path / folder / "notes.txt").touch()
    return tmp_path / "input", tmp_path / "target"


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(weights: Any = None, devices: int = 1) -> Derainer:
        return Derainer(PRESETS["tiny"], {}, restore=lambda _, image: image)

    monkeypatch.setattr(Derainer, "load", staticmethod(load))


def left_out(*folders: Path) -> list[str]:
    return [
        f"{folder}: 2 left out that cannot be read as images: e.png (dangling link), notes.txt"
        for folder in folders
    ]


def test_derain(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["derain", str(folders[0]), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.png", "b.png", "c.png", "d.png"
    ]  # fmt: skip
    assert caplog.messages == left_out(folders[0])


def test_score(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = tmp_path / "report.json"
    command = ["score", *map(str, folders), "--json", str(report)]
    assert main([*command, "--protocol", "rain200"]) == 0
    assert len(json.loads(report.read_text())["images"]) == len(NAMES)
    assert sorted(caplog.messages) == left_out(*folders)
    caplog.clear()
    for name in NAMES:
        Image.new("RGB", (256, 256)).save(folders[0] / name)
    # What one folder leaves out is told once in a process.
    assert main(["score", str(folders[0]), "--no-reference", "niqe"]) in (0, 2)
    assert caplog.messages == []


def test_data_verify_and_training(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = tmp_path / "report.json"
    assert main(["data", "verify", str(tmp_path), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["splits"]["all"]["pairs"] == len(NAMES)
    assert sorted(caplog.messages) == left_out(*folders)
    assert len(PairedFolder(tmp_path)) == len(NAMES)


def test_what_is_assumed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cmyk.jpg", "target.jpg"):
        Image.new("CMYK", (16, 16), (0, 90, 0, 0)).save(tmp_path / name)
    said = f"{tmp_path / 'cmyk.jpg'}: CMYK without a fitting colour profile: the inks are taken as"
    assert main(["derain", str(tmp_path / "cmyk.jpg"), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.startswith(said)
    paths = [str(tmp_path / name) for name in ("cmyk.jpg", "target.jpg")]
    assert main(["score", *paths, "--protocol", "rain200"]) == 0
    assert [message.startswith(str(tmp_path)) for message in caplog.messages] == [True, True]
    assert caplog.messages[0].startswith(said)


def test_an_image_too_large_for_the_memory_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    Image.new("L", (80, 80)).save(tmp_path / "b.png")
    monkeypatch.setattr(memory, "_host_memory", lambda: memory.image_bytes(100, 150))
    command = ["derain", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--tile", "8"]
    command += ["--overlap", "0", "-o", str(tmp_path / "out")]
    assert main(command) == 1
    error, count = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {tmp_path / 'a.png'}: 200 x 100 pixels take about 0.0 GiB")
    assert "cut the image into parts" in error
    assert count == "1 of 2 images failed"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
