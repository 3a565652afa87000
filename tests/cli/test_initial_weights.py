"""--config.init: the weights that a new run of train.py starts from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsformer_jax.checkpoints.catalogue import packaged
from drsformer_jax.checkpoints.weights import Weights, load_weights, save_weights
from drsformer_jax.cli import train as program

CONFIG = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'demo.py'}"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What training would start from, in place of training."""
    found: list[Any] = []

    def train(config: Any, options: Any, *rest: Any) -> None:
        found.append(rest[-1])

    for setting in ("prepare_cpu", "share_one_heap", "keep_cpu_memory"):
        monkeypatch.setattr(program, setting, lambda: None)
    monkeypatch.setattr("drsformer_jax.training.loop.train", train)
    for source in ("training_source", "validation_source"):
        monkeypatch.setattr(f"drsformer_jax.data.configured.{source}", lambda *given: [])
    return found


def train(workdir: Path, init: str, *changes: str, preset: str = "small") -> int:
    argv = ["train.py", CONFIG, f"--workdir={workdir}", f"--config.init={init}"]
    return program.run([*argv, f"--config.model.preset={preset}", *changes], "")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_new_run_starts_from_the_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[Any]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    stored = load_weights(packaged()["rain_small"])
    save_weights(tmp_path / f"start{suffix}", Weights(stored.config, stored.params))
    # A file of PyTorch does not tell the factor, only what comes of it.
    factor = "--config.model.ffn_expansion_factor=2.657"
    assert train(tmp_path / "run", f"~/start{suffix}", *([factor] * (suffix == ".pth"))) == 0
    ((params),) = begun
    for name, kernel in stored.params["patch_embed"].items():
        np.testing.assert_array_equal(params["patch_embed"][name], kernel)


def test_without_it_nothing_is_given(tmp_path: Path, begun: list[Any]) -> None:
    assert train(tmp_path / "run", "") == 0
    assert begun == [None]


def test_a_run_that_is_carried_on_does_not_read_it(
    tmp_path: Path, begun: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    assert train(tmp_path / "run", str(tmp_path / "gone.pth")) == 0
    assert begun == [None]
    assert f"gone.pth is not read, for {tmp_path}/run holds a run" in capsys.readouterr().out


def test_mistakes_are_told_in_one_line(
    tmp_path: Path, begun: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken, small = tmp_path / "broken.safetensors", packaged()["rain_small"]
    shutil.copyfile(small, broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    for init, preset, message in (
        (tmp_path / "gone.pth", "small", "gone.pth: no such file or folder"),
        (broken, "small", str(broken)),
        (
            small,
            "tiny",
            f"{small} holds another network than the configuration: config.model.dim (16 "
            "there, 8 here), config.model.heads ([1, 2, 4, 8] there, [1, 2, 2, 4] here); name",
        ),
    ):
        assert train(tmp_path / "run", str(init), preset=preset) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert told.startswith("train.py: error: --config.init")
        assert message in told
    assert not begun
    assert not (tmp_path / "run").exists()
