"""Weights to ship tell where they come from, and nothing of the machine that made them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import package_weights
from drsformer_jax.checkpoints.weights import Weights, load_weights
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.random_weights import random_weights

SMALL = DRSformerConfig(dim=4, num_blocks=(1, 1, 1, 1), heads=(1, 1, 1, 1), use_mefc=False)


def write_scores(folder: Path, psnr: float, rainy: float | str = 20.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mean = {"psnr": psnr, "ssim": 0.9, "input_psnr": rainy, "input_ssim": 0.5}
    scores = {"mean": mean, "images": [1, 2], "protocol": "rain200"}
    (folder / "scores.json").write_text(json.dumps(scores))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rain = {"light": ["/secret/light"], "heavy": [], "streaks": [], "pairs": [], "mist": 0.1}
    data = {"train": "/secret/clean", "val": "/secret/val", "kind": "mixed", "rain": rain}
    config = {"name": "x", "init": "/secret/first", "data": data}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = random_weights(SMALL, 0)
    monkeypatch.setattr(
        package_weights, "load_weights", lambda path: Weights(SMALL, weights.params, {"step": "7"})
    )
    return tmp_path


def package(run: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    arguments = ["x", str(run), str(run / "w.safetensors"), "--data", "some", "--licence", "free"]
    arguments += flags
    monkeypatch.setattr(sys, "argv", arguments)
    return package_weights.main()


def test_scores_of_all_sets_and_the_recipe_without_folders(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scores(run / "evaluation" / "rain100l", 34.0)
    write_scores(run / "evaluation" / "rain100h", 25.0)
    write_scores(run / "evaluation" / "clean", 45.0, rainy="inf")
    assert package(run, monkeypatch) == 0
    told = load_weights(run / "w.safetensors").metadata
    assert told["score"].startswith("clean 45.00 dB / 0.9000 over 2 images (rainy: inf dB")
    assert "; rain100h 25.00 dB / 0.9000 over 2 images" in told["score"]
    assert "; rain100l 34.00 dB" in told["score"]
    assert (told["data"], told["licence"], told["step"]) == ("some", "free", "7")
    assert "secret" not in json.dumps(told)
    assert json.loads(told["recipe"])["init"] == "first"
    assert json.loads(told["recipe"])["data"] == {"kind": "mixed", "rain": {"mist": 0.1}}


def test_a_run_that_was_not_scored_is_told_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert package(run, monkeypatch) == 2
    assert "run eval.py first" in capsys.readouterr().err
    assert not (run / "w.safetensors").exists()
    write_scores(run / "evaluation", 30.0)
    assert package(run, monkeypatch) == 0
    assert load_weights(run / "w.safetensors").metadata["score"].startswith("30.00 dB")


def test_an_average_has_the_recipe_of_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(run / "evaluation", 30.0)
    (run / "a").mkdir()
    (run / "config.json").rename(run / "a" / "config.json")
    assert package(run, monkeypatch) == 2
    assert f"{run / 'config.json'}: " in capsys.readouterr().err
    assert package(run, monkeypatch, f"--recipe={run / 'a'}") == 0
    assert json.loads(load_weights(run / "w.safetensors").metadata["recipe"])["name"] == "x"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "config.json is damaged"),
        ("evaluation/scores.json", "", "scores.json is damaged; run eval.py first"),
        ("evaluation/scores.json", '{"mean": {}}', "scores.json holds no scores of eval.py"),
    ],
)
def test_damaged_files_are_named(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: str,
    told: str,
) -> None:
    write_scores(run / "evaluation", 30.0)
    (run / file).write_text(content)
    assert package(run, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_a_run_that_was_imported_has_no_data(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scores(run / "evaluation", 30.0)
    (run / "config.json").write_text('{"imported": {"file": "7.state"}}')
    assert package(run, monkeypatch) == 0
    recipe = json.loads(load_weights(run / "w.safetensors").metadata["recipe"])
    assert recipe["imported"] == {"file": "7.state"}


def test_a_form_that_would_lose_the_story_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(run / "evaluation", 30.0)
    monkeypatch.setattr(sys, "argv", ["x", str(run), str(run / "w.pth"), "--data=d", "--licence=l"])
    assert package_weights.main() == 2
    assert "w.pth: end the name in .safetensors" in capsys.readouterr().err
    assert not (run / "w.pth").exists()
