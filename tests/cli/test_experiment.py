"""The flags of train.py and eval.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drsformer_jax.cli.experiment import CPU_FLAGS, parse_flags, prepare_cpu, run_experiment

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'demo.py'}"


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


def test_flags_of_xla_are_added_once_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, _), (second, value) = CPU_FLAGS
    monkeypatch.setenv("XLA_FLAGS", f"{first}=true")
    prepare_cpu()
    assert os.environ["XLA_FLAGS"] == f"{first}=true {second}={value}"  # the user's own stays
    assert f"added to XLA_FLAGS: {second}={value}" in capsys.readouterr().out
    prepare_cpu()
    assert os.environ["XLA_FLAGS"] == f"{first}=true {second}={value}"
    assert capsys.readouterr().out == ""


NOT_FINITE = """
import jax, jax.numpy as jnp
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params
from drsformer_jax.training.step import loss_and_metrics
config = PRESETS["tiny"]
params = init_params(config, jax.random.key(0))
loss = jax.jit(lambda batch: loss_and_metrics(config, params, batch)[0])
images = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
for value in (jnp.nan, jnp.inf, 0.5):
    print(bool(jnp.isfinite(loss({"input": images.at[0, 5, 7, 1].set(value), "target": images}))))
"""


def test_what_is_not_finite_stays_so_in_training() -> None:
    """A diverged run is found by its loss: no flag may let the compiler reason that away."""
    flags = " ".join(f"{flag}={value}" for flag, value in CPU_FLAGS)
    done = subprocess.run(
        [sys.executable, "-c", NOT_FINITE],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False", "True"]
