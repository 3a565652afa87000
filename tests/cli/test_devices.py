"""Devices that are not there, and a compiler for some that are not there either."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from drsformer_jax.checkpoints.catalogue import default_weights
from drsformer_jax.cli import devices, evaluate, train
from drsformer_jax.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'demo.py'}"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("platforms", ["cuda", "tpu", "nonsense", "cpu,nonsense"])
def test_devices_that_are_not_there_are_told_in_one_line(platforms: str, tmp_path: Path) -> None:
    if platforms == "tpu" and devices.has_tpu():
        pytest.skip("there is a TPU")
    if platforms == "cuda" and list(Path("/dev").glob("nvidia*")):
        pytest.skip("there is a GPU")
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photo)
    done = run(
        *("-m", "drsformer_jax.cli.main", "derain", str(photo), "-o", str(tmp_path / "dry")),
        JAX_PLATFORMS=platforms,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"JAX_PLATFORMS={platforms}: there are no such devices here" in done.stderr
    assert "JAX_PLATFORMS=cpu" in done.stderr
    assert not (tmp_path / "dry").exists()


COMMANDS: dict[str, Callable[[Path], int]] = {
    "train": lambda at: train.run(["train.py", CONFIG, f"--workdir={at}/run"], ""),
    "evaluate": lambda at: evaluate.run(["eval.py", CONFIG, f"--workdir={at}"], ""),
    "parity": lambda at: cli.main(["parity", "--weights", "random:0", "--preset", "tiny"]),
    "plan": lambda at: cli.main(["plan", CONFIG, "--device", "gpu"]),
    "convert": lambda at: cli.main(["convert", str(default_weights()), f"{at}/checkpoint"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_needs_devices_asks_for_them_first(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "parity":
        pytest.importorskip("torch", reason="PyTorch is not installed")

    def missing() -> None:
        raise RuntimeError("Unable to initialize backend 'x': broken (set JAX_PLATFORMS='' to ...)")

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "x")
    monkeypatch.setattr("drsformer_jax.cli.train.prepare_cpu", lambda: None)
    # Settings of the whole process, which other tests have.
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    assert COMMANDS[command](tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: JAX_PLATFORMS=x: there are no such devices here (broken); set" in line
    assert not list(tmp_path.iterdir())


NOISE = """
print("libtpu: no TPU here", flush=True)
def get_library_path():
    print("libtpu: where am I", flush=True)
    raise OSError("no TPU")
"""


@pytest.mark.skipif(devices.has_tpu(), reason="there is a TPU")
def test_without_a_tpu_nobody_hears_of_libtpu(tmp_path: Path) -> None:
    (tmp_path / "libtpu.py").write_text(NOISE)
    start = "import jax; jax.devices()"
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    loud = run("-c", start, PYTHONPATH=path, JAX_PLATFORMS="")
    assert "libtpu" in loud.stdout
    quiet = f"from drsformer_jax.cli.devices import leave_libtpu_alone as q; q(); {start}"
    done = run("-c", quiet, PYTHONPATH=path, JAX_PLATFORMS="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_planner_of_tpus_keeps_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for module in ("main", "experiment", "plan"):
        name = f"drsformer_jax.cli.{module}.leave_libtpu_alone"
        monkeypatch.setattr(name, lambda module=module: called.append(module))
    assert cli.main(["score", "nowhere", "--no-reference", "niqe"]) == 2
    assert train.run(["train.py"], "") == 2
    assert called == ["main", "experiment"]
    assert cli.main(["plan", CONFIG]) == 2  # --topology is missing
    assert called == ["main", "experiment"]
