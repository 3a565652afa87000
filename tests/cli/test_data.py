"""`drsformer data`: what its commands print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference.miniature_sets import clean, rain200, save

from drsformer_jax.cli.data import LEVELS
from drsformer_jax.cli.main import main
from drsformer_jax.data.synthetic import rain


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rain200(tmp_path / "set")
    report = tmp_path / "report.json"
    assert main(["data", "verify", str(tmp_path / "set"), "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "nothing is wrong" in printed
    assert json.loads(report.read_text())["splits"]["train"]["pairs"] == 4
    assert main(["data", "verify", str(tmp_path / "set"), "--as", "rain200l"]) == 1
    assert "test: 2 readable pairs, not 200" in capsys.readouterr().out


def test_a_report_is_written_over_no_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rain200(tmp_path / "set")
    (tmp_path / "linked").symlink_to("set/test/input")
    image = next((tmp_path / "linked").iterdir())
    before = image.read_bytes()
    assert main(["data", "verify", str(tmp_path / "set"), "--json", str(image)]) == 2
    assert f"--json {image}: would overwrite an input" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_build_and_train_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from configs import base
    from drsformer_jax.data.configured import training_source, validation_source

    rain200(tmp_path / "set")
    command = ["data", "build", "rain200l", str(tmp_path / "set"), str(tmp_path / "sets")]
    assert main(command) == 2
    assert "--partial takes what is there" in capsys.readouterr().err
    assert main([*command, "--partial", "--form", "raw"]) == 0
    assert f"{tmp_path}/sets/rain200l/raw/1.0.0: 0." in capsys.readouterr().out
    data = base.get_config().data
    data.kind = "records"
    data.train = data.val = str(tmp_path / "sets/rain200l")
    np.testing.assert_array_equal(training_source(data, 0, 8)[1]["target"], clean(1))
    np.testing.assert_array_equal(validation_source(data)[1]["target"], clean(5))


def test_make_rain_into_a_linked_folder(tmp_path: Path) -> None:
    save(tmp_path / "clean" / "1.png", clean(1))
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    assert main(["data", "make-rain", str(tmp_path / "clean"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "input" / "1.png").is_file()


def test_a_rainy_image_whose_name_is_too_long_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "x" * 247):
        save(tmp_path / "clean" / f"{name}.png", clean(1))
    monkeypatch.setattr("drsformer_jax.data.synthetic.rendered.add_rain", lambda *_: 1 / 0)
    command = ["data", "make-rain", str(tmp_path / "clean"), str(tmp_path / "out")]
    assert main([*command, "--versions", "2"]) == 2
    assert capsys.readouterr().err == (
        f"drsformer: error: {tmp_path / 'out'}: cannot hold {'x' * 247}_0001.png (File name too "
        "long): give the photograph a shorter name\n"
    )
    assert not (tmp_path / "out").exists()


def test_make_rain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        save(tmp_path / "clean" / f"{i}.png", clean(i))
    (tmp_path / "empty").mkdir()
    for out, seed in (("empty", "1"), ("again", "1"), ("other", "2")):
        command = ["data", "make-rain", str(tmp_path / "clean"), str(tmp_path / out)]
        assert main([*command, "--level", "heavy", "--seed", seed]) == 0
    assert "2 pairs, rain heavy, seed 2" in capsys.readouterr().out

    def image(name: str) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / name))

    np.testing.assert_array_equal(image("empty/target/1.png"), clean(1))
    assert (image("empty/input/1.png") != clean(1)).any()
    np.testing.assert_array_equal(image("empty/input/1.png"), image("again/input/1.png"))
    assert (image("other/input/1.png") != image("again/input/1.png")).any()


def test_levels_are_those_of_the_generator() -> None:
    assert LEVELS == rain.LEVELS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere"], "nowhere: no such folder"),
        (["verify", "clean"], "clean: holds no train/ or test/"),
        (["verify", "clean", "--as", "rain"], "unknown data set 'rain'"),
        (["verify", "clean", "--json", "no/x.json"], "--json no/x.json: there is no folder no"),
        (["build", "rain200h", "nowhere", "out"], "nowhere: no such folder"),
        (["make-rain", "nowhere", "out"], "nowhere: no such folder"),
        (["make-rain", "clean", "clean"], "clean: is there already and not an empty folder"),
        (["make-rain", "clean", "no/out"], "no/out: there is no folder no"),
        (["make-rain", "clean", "out", "--versions", "0"], "--versions 0: must be positive"),
        (["make-rain", "clean", "out", "--versions", f"{10**20}"], "must be at most 1000000000"),
        (["make-rain", "clean", "out", "--seed", "-1"], "--seed -1: must not be negative"),
        (["make-rain", "empty", "out"], "empty: no images"),
        (["make-rain", "twice", "out"], "twice/1.png: 1.bmp has the same name without suffix"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "clean" / "1.png", clean(0))
    save(tmp_path / "twice" / "1.png", clean(0))
    save(tmp_path / "twice" / "1.bmp", clean(1))
    (tmp_path / "empty").mkdir()
    assert main(["data", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"clean", "empty", "twice"}


def test_a_full_disk_names_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clean").mkdir()
    save(tmp_path / "clean" / "a.png", clean(0))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    out = tmp_path / "out"
    assert main(["data", "make-rain", str(tmp_path / "clean"), str(out)]) == 2
    told = capsys.readouterr().err
    assert (
        told
        == f"drsformer: error: {out}/input/a.png: cannot be written (No space left on device)\n"
    )
    assert not out.exists()
