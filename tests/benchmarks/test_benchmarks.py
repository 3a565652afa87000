"""Every benchmark runs from end to end, with the tiny network; no speed is asserted.

Those that compile for half a minute carry the marker `slow`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trivial_programs

from benchmarks import input_pipeline, torch_programs
from configs import base
from drsformer_jax.models.config import PRESETS
from drsformer_jax.parity import torch_drsformer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pairs.PAUSE_SECONDS", 0)


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, *flags: str) -> dict[str, Any]:
    """The figures of a benchmark."""
    json_file = tmp_path / f"{name}.json"
    monkeypatch.setattr("sys.argv", [name, *flags, f"--json={json_file}"])
    assert importlib.import_module(f"benchmarks.{name}").main() == 0
    record: dict[str, Any] = json.loads(json_file.read_text())
    assert record["benchmark"] == name
    assert record["machine"]["cores"] >= 1
    assert {"jax", "torch", "python"} <= record["versions"].keys()
    return record


def test_forward(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--preset=tiny", "--sizes", "16", "--variants", "channels_last", "--runs=2")
    (result,) = run(monkeypatch, tmp_path, "forward", *flags)["results"]
    ours = result["programs"]["ours"]
    assert len(ours["runs"]) == 2
    assert 0 < ours["difference"] < 1e-6
    assert 0 < result["programs"]["channels_last"]["difference"] < 1e-6
    assert result["difference_from"] == "PyTorch in float64"
    assert ours["cached_compile_seconds"] > 0
    assert result["flops"] == torch_programs.forward_flops("tiny", 1, 16)
    assert "channels_last" in capsys.readouterr().out


def test_a_compiled_variant_is_compared_by_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes a step; without the compiler it is eager's."""
    monkeypatch.setattr("torch.compile", lambda module: module)
    # The program sets it, and other tests want the reference's own.
    monkeypatch.setattr(torch_drsformer, "normalize", torch_drsformer.normalize)
    # Memory is told of such a program, and is to be PyTorch's alone.
    monkeypatch.setitem(sys.modules, "jax", None)
    # Whose shapes no other test has asked JAX for.
    config = dataclasses.replace(PRESETS["tiny"], dim=10)
    recipe = {**base.get_config().optimizer, "learning_rate": 0.01}

    def first_step(variant: str) -> dict[str, Any]:
        program = torch_programs.training_step(config, recipe, 1, 16, "cpu", variant)
        program.run()
        return program.output()

    assert first_step("compile") == first_step("eager")


@pytest.mark.slow
def test_train_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags = ("--preset=tiny", "--patch=16", "--variants", "eager", "--runs=1")
    result = run(monkeypatch, tmp_path, "train_step", *flags)
    assert result["programs"]["ours"]["difference"] < 1e-4
    assert result["flops"] == 3 * torch_programs.forward_flops("tiny", 1, 16)
    assert all(found["peak_bytes"] > 0 for found in result["programs"].values())
    assert result["execution"] == {"unroll": False, "remat": None}  # those of configs/base.py


def test_another_network_than_pytorchs_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exact = {"restored": np.array([0.5])}
    for programs in ("jax_programs", "torch_programs"):
        monkeypatch.setattr(f"benchmarks.{programs}.forward", trivial_programs.restored)
    monkeypatch.setattr("benchmarks.forward.exact_forward", lambda **settings: exact)
    argv = ["forward", "--preset=tiny", "--sizes", "16", f"--json={tmp_path}/forward.json"]
    monkeypatch.setattr("sys.argv", argv)
    assert importlib.import_module("benchmarks.forward").main() == 2
    assert "error: ours disagrees with PyTorch in float64" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_input_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train_step = tmp_path / "train_step.json"
    measured = {"programs": {"ours": {"seconds": {"median": 2.0}}}, "batch": 4, "size": 128}
    train_step.write_text(json.dumps(measured))
    flags = ("--threads", "2", "--pairs=2", "--batch=2", "--batches=2", "--runs=1")
    record = run(monkeypatch, tmp_path, "input_pipeline", *flags, "--train-step", str(train_step))
    assert list(record["consumed"].values()) == [2.0]
    (point,) = record["points"]
    assert point["threads"] == 2
    assert set(point["images_per_second"]) == {input_pipeline.PYTORCH, *input_pipeline.OURS}


def test_mistakes_end_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = importlib.import_module("benchmarks.forward")
    monkeypatch.setattr("sys.argv", ["forward", f"--json={tmp_path / 'none' / 'x.json'}"])
    assert forward.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_operations_are_counted() -> None:
    # The paper's network at 128x128: about 60.7 billion multiply-adds.
    flops = torch_programs.forward_flops("drsformer", 1, 128)
    assert math.isclose(flops, 2 * 60.7e9, rel_tol=0.002)
    # Convolutions and the attention's products alike grow with the pixels.
    assert (
        torch_programs.forward_flops("tiny", 2, 16)
        == torch_programs.forward_flops("tiny", 1, 16) * 2
    )
