"""`drsformer score`: the command as a user types it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.scores.metrics import psnr


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """results/ and targets/ with two pairs, the results brighter by 4 and 5."""
    results, targets = tmp_path / "results", tmp_path / "targets"
    for folder in (results, targets):
        folder.mkdir()
    for i in range(2):
        target = np.random.default_rng(i).integers(0, 200, (16, 20, 3)).astype(np.uint8)
        Image.fromarray(target).save(targets / f"{i}.png")
        Image.fromarray(target + np.uint8(4 + i)).save(results / f"{i}.png")
    return results, targets


def score(*arguments: object) -> int:
    return main(["score", *map(str, arguments)])


@pytest.mark.parametrize("protocol", ["rain200", "did_ddn", "basicsr"])
def test_prints_the_mean_with_its_protocol(
    folders: tuple[Path, Path], protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(*folders, "--protocol", protocol) == 0
    printed = capsys.readouterr().out
    values = [
        psnr(*(np.asarray(Image.open(folder / f"{i}.png")) for folder in folders), protocol)
        for i in range(2)
    ]
    assert f"protocol {protocol} " in printed
    assert "mean of 2" in printed
    assert f"{np.mean(values):.2f}" in printed
    assert ("SSIM" in printed.splitlines()[1]) == (protocol != "basicsr")


def test_writes_json_and_csv(folders: tuple[Path, Path], tmp_path: Path) -> None:
    json_file, csv_file = tmp_path / "score.json", tmp_path / "score.csv"
    assert score(*folders, "--protocol", "rain200", "--json", json_file, "--csv", csv_file) == 0
    document = json.loads(json_file.read_text())
    assert document["protocol"] == "rain200"
    assert [image["name"] for image in document["images"]] == ["0", "1"]
    with csv_file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["psnr"]) for row in rows] == [image["psnr"] for image in document["images"]]


def test_two_files(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    renamed = folders[0] / "0.png"
    renamed = renamed.rename(renamed.with_name("derained.png"))
    assert score(renamed, folders[1] / "0.png", "--protocol", "rain200") == 0
    assert "mean of 1" in capsys.readouterr().out


def test_identical_folders_score_infinity(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file = tmp_path / "score.json"
    arguments = (folders[1], folders[1], "--protocol", "rain200", "--json", json_file)
    assert score(*arguments) == 0
    assert "infinite PSNR: 2 of 2 (0, 1)" in capsys.readouterr().out
    assert json.loads(json_file.read_text())["mean"]["psnr"] == "inf"


def test_the_mean_has_an_interval(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(*folders, "--protocol", "rain200") == 0
    assert "no 95 % interval of the mean: 2 images" in capsys.readouterr().out
    for folder, offset in zip(folders, (3, 0), strict=True):
        for i in range(2, 7):
            target = np.random.default_rng(i).integers(0, 200, (16, 20, 3)).astype(np.uint8)
            Image.fromarray(target + np.uint8(offset)).save(folder / f"{i}.png")
    assert score(*folders, "--protocol", "rain200") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("mean of 7 ")
    assert lines[3].startswith("95 % interval of the mean: PSNR ")


def test_either_a_protocol_or_no_reference(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(*folders) == 2
    assert "one of the arguments --protocol --no-reference is required" in capsys.readouterr().err
    assert score(*folders, "--protocol", "rain200", "--no-reference", "niqe") == 2
    assert "not allowed with" in capsys.readouterr().err
    assert score(*folders, "--no-reference", "brisque") == 2
    assert "invalid choice: 'brisque'" in capsys.readouterr().err


def test_users_mistakes(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, targets = folders
    good = (results, targets, "--protocol", "rain200")
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    extra = tmp_path / "extra"
    extra.mkdir()
    Image.new("RGB", (30, 30)).save(extra / "9.png")
    protocol = ("--protocol", "rain200")
    cases = [
        ((tmp_path / "nowhere", targets, *protocol), "nowhere: no such file or folder"),
        ((results, targets / "0.png", *protocol), "two folders or two images"),
        ((tmp_path / "large.png", targets / "0.png", *protocol), "large.png: it is 30 x 30"),
        ((extra, targets, *protocol), "extra has no partner for 0, 1"),
        ((*good, "--json", tmp_path), "--json"),
        ((*good, "--json", tmp_path / "no" / "x.json"), "there is no folder"),
        ((*good, "--csv", tmp_path / "no" / "x.csv"), "--csv"),
    ]
    for arguments, complaint in cases:
        assert score(*arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("drsformer: error: ")
        assert complaint in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


@pytest.mark.parametrize("flag", ["--json", "--csv"])
def test_inputs_stay(
    folders: tuple[Path, Path], flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "linked").symlink_to("targets")
    (tmp_path / "link").symlink_to("results/1.png")
    (tmp_path / "hard").hardlink_to(folders[0] / "0.png")
    images = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    for name in ("results/0.png", "linked/1.png", "link", "hard"):
        for given in (folders, (folders[0], folders[0], folders[1])):
            assert score(*given, "--protocol", "rain200", flag, tmp_path / name) == 2
            printed = capsys.readouterr()
            assert f"{flag} {tmp_path / name}: would overwrite an input" in printed.err
            assert printed.out == ""
    assert {path: path.read_bytes() for path in images} == images
    # A report of before is none.
    for _ in range(2):
        assert score(*folders, "--protocol", "rain200", flag, folders[0] / "report") == 0


def test_two_reports_are_two_files(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(".")
    files = ("--json", tmp_path / "x", "--csv", tmp_path / "link" / "x")
    assert score(*folders, "--protocol", "rain200", *files) == 2
    assert "--json and --csv both name" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_names_that_are_no_text(folders: tuple[Path, Path], tmp_path: Path) -> None:
    name = os.fsdecode(b"Stra\xdfe")
    for folder in folders:
        (folder / "0.png").rename(folder / f"{name}.png")
    json_file, csv_file = tmp_path / "x.json", tmp_path / "x.csv"
    files = ("--json", json_file, "--csv", csv_file)
    for given in (folders, (folders[0], folders[0], folders[1])):
        assert score(*given, "--protocol", "rain200", *files) == 0
        document = json.loads(json_file.read_text(encoding="utf-8"))
        images = document.get("images") or document["methods"][0]["images"]
        assert [image["name"] for image in images] == ["1", name]
        with csv_file.open(encoding="utf-8", newline="") as stream:
            names = [row["name"] for row in csv.DictReader(stream)]
        assert names[:2] == ["1", "Stra\\udcdfe"]


def test_a_file_that_cannot_be_written(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("drsformer_jax.files.write_text", full)
    assert score(*folders, "--protocol", "rain200", "--json", tmp_path / "s.json") == 2
    printed = capsys.readouterr()
    assert "s.json: cannot be written (No space left on device)" in printed.err
    assert "mean of 2" in printed.out


@pytest.mark.skipif(os.name != "posix", reason="no devices among files")
def test_a_device_is_told_before_the_work(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = tmp_path / "stdout"
    device.symlink_to(os.devnull)
    for flag in ("--json", "--csv"):
        assert score(*folders, "--protocol", "rain200", flag, device) == 2
        printed = capsys.readouterr()
        assert f"{flag} {device}: is a device, a pipe or what is printed to" in printed.err
        assert printed.out == ""
    assert device.is_symlink()


def test_real_rain(shared_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rainy validation images of Rain100L score 27.19 dB on average."""
    folder = shared_dir / "data" / "rain100l" / "val"
    assert score(folder / "input", folder / "target", "--protocol", "rain200") == 0
    printed = capsys.readouterr().out
    assert "27.19" in printed
    assert "95 % interval of the mean: PSNR 25.61 to 28.94 dB, SSIM 0.8045 to 0.8757" in printed
