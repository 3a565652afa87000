"""A run that is killed ten times ends with the parameters of one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from drsformer_jax.checkpoints.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900  # seconds, for a machine that is busy with something else
KILLS = 10

# Ended by SIGTERM before the program listens, or after it has stopped in an orderly way.
TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)


def command(workdir: Path, steps: int) -> list[str]:
    changes = {
        "total_steps": steps,
        "global_batch": 2,
        "patch_size": 16,
        "progressive": "((60, 2, 16), (60, 4, 24))",
        "ema_decay": 0.9,
        "mixup": True,
        "log_every": 1,
        "eval_every": 20,
        "checkpoint_every": 4,
        "data.rain_versions": 4,
    }
    return [
        sys.executable,
        str(ROOT / "train.py"),
        f"--config={ROOT / 'configs' / 'demo.py'}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]


def start(workdir: Path, steps: int, cache: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command(workdir, steps), stdout=subprocess.DEVNULL, cwd=ROOT, env=environment
    )


def newest(workdir: Path) -> int:
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def saving(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def moments(workdir: Path, rng: random.Random) -> Iterator[str]:
    """Waits for the moment of each kill, and names it: during a save, or at any time."""
    for number in range(KILLS):
        begun, before = time.monotonic(), newest(workdir)
        if number % 2:
            time.sleep(rng.uniform(0, 25))
            yield f"{time.monotonic() - begun:.1f} s after the start"
            continue
        while not (newest(workdir) > before and saving(workdir)):
            if time.monotonic() - begun > PATIENCE:
                raise TimeoutError("no checkpoint")
            time.sleep(0.001)
        yield "during a save"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ten_kills_change_nothing(tmp_path: Path, number: signal.Signals) -> None:
    steps, cache, rng = 120, tmp_path / "cache", random.Random(number)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, steps, cache).wait(PATIENCE) == 0
    waiting = moments(killed, rng)
    for _ in range(KILLS):
        process = start(killed, steps, cache)
        moment = next(waiting)
        process.send_signal(number)
        code = process.wait(PATIENCE)
        print(f"{number.name} {moment}: exit code {code}, newest checkpoint {newest(killed)}")
        if code == 0:  # it was about to end by itself
            assert newest(killed) == steps
            break
        assert code == -signal.SIGKILL if number == signal.SIGKILL else code in TERMINATED
    assert start(killed, steps, cache).wait(PATIENCE) == 0
    resumed, untouched = load_weights(killed), load_weights(whole)
    for a, b in zip(
        jax.tree.leaves(resumed.params), jax.tree.leaves(untouched.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    records = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, killed)]
    losses = [[line.split('"images_per_second"')[0] for line in lines] for lines in records]
    assert losses[0] == losses[1]
