"""The flags of train.py and eval.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.cli.experiment import parse_flags, run_experiment

CONFIG = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'demo.py'}"


def test_flags_of_training() -> None:
    argv = ["train.py", CONFIG, "--workdir=runs/x", "--config.seed=7"]
    given = parse_flags("train", argv, "")
    assert given is not None
    assert (given.workdir, given.config.seed, given.profile_steps) == (Path("runs/x"), 7, 0)
    profiled = parse_flags("train", [*argv, "--profile=5"], "")
    assert profiled is not None
    assert profiled.profile_steps == 5


@pytest.mark.parametrize("value", ["=0", "=-3", "=few", ""])
def test_steps_to_trace_must_be_a_positive_number(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train.py", CONFIG, f"--workdir={tmp_path / 'run'}", f"--profile{value}"]
    assert run_experiment("train", argv, "") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "profile" in told
    assert not (tmp_path / "run").exists()


def test_evaluation_has_no_steps_to_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval.py", CONFIG, f"--workdir={tmp_path}", "--profile=5"]
    assert run_experiment("evaluate", argv, "") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("command", "has_profile"), [("train", True), ("evaluate", False)])
def test_help(command: str, has_profile: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_experiment(command, [f"{command}.py", "--help"], "What it does.") == 0
    told = capsys.readouterr().out
    assert "What it does." in told
    assert ("--profile" in told) is has_profile
