"""The main job with the real programs: train, kill, resume, score, convert, derain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from drsformer_jax.checkpoints.weights import load_weights
from drsformer_jax.data.images import read_rgb, write_png
from drsformer_jax.data.synthetic.rain import add_rain, sample_rain

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds, for a machine that is busy with something else


def command(program: str, data: Path, workdir: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / program),
        f"--config={ROOT / 'configs' / 'rain100l.py'}",
        f"--workdir={workdir}",
        f"--config.data.train={data}",
        f"--config.data.val={data}",
        "--config.model.preset=tiny",
        "--config.global_batch=2",
        "--config.patch_size=16",
        "--config.checkpoint_every=2",
        "--config.eval_every=0",
        "--config.log_every=1",
        "--config.ema_decay=0.9",
        *overrides,
    ]


def run(arguments: list[str], environment: dict[str, str]) -> str:
    result = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small rainy pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for side in ("input", "target"):
        (folder / side).mkdir()
    for i in range(4):
        ramp = np.linspace(40, 200, 40 * 24 * 3).reshape(24, 40, 3)
        target = np.uint8(ramp + rng.normal(size=3) * 20)
        rainy = add_rain(target, sample_rain("light", rng), rng)
        write_png(folder / "input" / f"{i}.png", rainy)
        write_png(folder / "target" / f"{i}.png", target)
    return folder


def test_from_pairs_to_a_derained_photograph(data: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # As users have it: a resumed run finds the programs that the killed one compiled.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    environment = os.environ | cache | {"JAX_ENABLE_COMPILATION_CACHE": "true"}

    # Killed without warning, once two checkpoints are there.
    endless = command("train.py", data, killed, "--config.total_steps=100000")
    process = subprocess.Popen(endless, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (killed / "checkpoints" / "4").is_dir():
            assert process.poll() is None, "train.py ended by itself"
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()

    # Resumed, it ends with the parameters of the run that was never touched, to the bit.
    steps = [int(path.name) for path in (killed / "checkpoints").iterdir() if path.name.isdigit()]
    total = f"--config.total_steps={max(steps) + 2}"
    assert "resuming after step" in run(command("train.py", data, killed, total), environment)
    run(command("train.py", data, whole, total), environment)
    resumed, untouched = load_weights(killed), load_weights(whole)
    assert resumed.config == untouched.config
    for a, b in zip(
        jax.tree.leaves(resumed.params), jax.tree.leaves(untouched.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)

    # Scored, with one row an image.
    table = run(command("eval.py", data, whole), environment)
    assert "rain200" in table
    scores = json.loads((whole / "evaluation" / "scores.json").read_text())
    assert len(scores["images"]) == 4

    # Converted, and the same picture by either form of the weights and by eval.py.
    drsformer = [sys.executable, "-m", "drsformer_jax.cli.main"]
    weights = tmp_path / "weights.safetensors"
    run([*drsformer, "convert", str(whole), str(weights)], environment)
    photo = data / "input" / "0.png"
    out = tmp_path / "derained"
    run([*drsformer, "derain", str(photo), "-o", str(out), "--weights", str(weights)], environment)
    derained = read_rgb(out / "0.png")
    assert derained.shape == read_rgb(photo).shape
    np.testing.assert_array_equal(derained, read_rgb(whole / "evaluation" / "restored" / "0.png"))


def test_diverging_and_mistaken_runs_end_with_one_line(data: Path, tmp_path: Path) -> None:
    (data / "input" / "9.png").write_bytes(b"not a picture")
    try:
        arguments = command("train.py", data, tmp_path / "run")
        result = subprocess.run(
            arguments, capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ
        )
    finally:
        (data / "input" / "9.png").unlink()
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "9.png" in result.stderr
    assert not (tmp_path / "run").exists()
