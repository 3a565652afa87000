"""Several processes train as one: CPU devices, a coordinator on this machine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.several import run_together

from drsformer_jax.errors import UserError
from drsformer_jax.processes import together
from drsformer_jax.training.workdir_lock import WorkdirLock

PROGRAM = Path(__file__).with_name("several_processes.py")


def train(
    *workdirs: Path,
    processes: int = 1,
    devices: int = 1,
    network: str = "toy",
    float64: bool = False,
    faults: list[str | None] | None = None,
    steps: list[int] | None = None,
    **changes: Any,
) -> list[tuple[int, str, str]]:
    """Runs one program a process; for each its exit code, output and errors.

    A program imports JAX once, and trains in all workdirs, each with its own fault and steps.
    """
    runs = [{"workdir": str(workdir), "changes": dict(changes)} for workdir in workdirs]
    for run, total_steps in zip(runs, steps or [], strict=steps is not None):
        run["changes"]["total_steps"] = total_steps
    given = {
        "runs": runs,
        "network": network,
        "float64": float64,
        "faults": faults or [None] * len(runs),
    }
    return run_together(PROGRAM, given, processes, devices)


def succeed(*workdirs: Path, **options: Any) -> list[str]:
    """What the processes of runs that end well print."""
    results = train(*workdirs, **options)
    assert [code for code, _, _ in results] == [0] * len(results), results
    return [output for _, output, _ in results]


def losses(workdir: Path) -> list[float]:
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def final(workdir: Path) -> list[np.ndarray]:
    return list(np.load(workdir / "final.npz").values())


def distance(one: Path, other: Path) -> float:
    """Of the final parameters: relative L2."""
    a, b = (np.concatenate([leaf.ravel() for leaf in final(path)]) for path in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# 20 steps of 4 pairs.
TOGETHER: dict[str, Any] = {
    "global_batch": 4,
    "total_steps": 20,
    "log_every": 1,
    "checkpoint_every": 0,
    "eval_every": 0,
    "mixup": True,
    "ema_decay": 0.9,
}
# The parameters are split over two devices, each in another process.
TWO_BY_TWO: dict[str, Any] = {"processes": 2, "devices": 2, "mesh__fsdp": 2}


def test_mistakes_with_names_that_are_no_text() -> None:
    name = os.fsdecode(b"Stra\xdfe.png")
    with pytest.raises(UserError, match=name), together():
        raise UserError(f"{name}: cannot be decoded")


@pytest.mark.parametrize(
    ("network", "patch_size"),
    # In one pixel of the latent level all cosines are 1 or -1, and rounding breaks the ties.
    [("toy", 8), pytest.param("tiny", 16, marks=pytest.mark.slow)],
)
def test_two_processes_of_two_devices_train_as_one_device_does(
    tmp_path: Path, network: str, patch_size: int
) -> None:
    options = {**TOGETHER, "network": network, "patch_size": patch_size, "float64": True}
    one, four = tmp_path / "one", tmp_path / "four"
    succeed(one, **options)
    outputs = succeed(four, **TWO_BY_TWO, **options)
    assert "4 cpu device(s)" in outputs[0]
    assert outputs[1] == ""
    assert len(losses(one)) == 20
    np.testing.assert_allclose(losses(four), losses(one), rtol=1e-12, atol=0)
    for a, b in zip(final(four), final(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_in_float32_they_are_no_farther_apart_than_float32_is_from_float64(
    tmp_path: Path,
) -> None:
    """AdamW divides a gradient by its size: below its eps, rounding decides the update's size."""
    options = {**TOGETHER, "network": "tiny", "patch_size": 16}
    one, four, exact = (tmp_path / name for name in ("one", "four", "exact"))
    succeed(one, **options)
    succeed(four, **TWO_BY_TWO, **options)
    succeed(exact, float64=True, **options)
    np.testing.assert_allclose(losses(four), losses(one), rtol=1e-5, atol=0)
    rounding = distance(one, exact)
    assert 0 < distance(four, one) <= rounding < 1e-3


def test_a_run_goes_on_with_other_numbers_of_devices_and_processes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"global_batch": 8, "mixup": True, "ema_decay": 0.9, "log_every": 1}
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    succeed(whole, moved, steps=[8, 2], devices=4, **options)
    succeed(moved, devices=1, processes=2, total_steps=5, **options)
    succeed(moved, devices=8, total_steps=8, **options)
    np.testing.assert_allclose(losses(moved), losses(whole), rtol=1e-5)
    for a, b in zip(final(moved), final(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_request_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "processes": 2, "total_steps": 40, "checkpoint_every": 20, "eval_every": 0
    }  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    results = train(stopped, faults=["SIGTERM"], **options)
    assert [code for code, _, _ in results] == [143, 143], results
    assert "stopped after step" in results[0][1]
    succeed(stopped, whole, **options)
    for a, b in zip(final(stopped), final(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_one_process_cannot_do_ends_all(tmp_path: Path) -> None:
    """A mistake, another workdir, and a workdir that is in use: one line each, in both."""
    mistake, other, busy = (tmp_path / name for name in ("mistake", "other", "busy"))
    busy.mkdir()
    lock = WorkdirLock(busy)
    results = train(mistake, other, busy, processes=2, faults=["mistake", "other folder", None])
    lock.release()
    for (code, _, errors), process in zip(results, ("", "process 0: "), strict=True):
        assert code == 2, results
        lines = [line for line in errors.splitlines() if line.startswith("error:")]
        assert lines[0] == f"error: {'process 1: ' if not process else ''}pair.png: vanished"
        assert re.match("error: (process 1: )?--workdir .*elsewhere is not", lines[1])
        assert ("process 1: " in lines[1]) == (not process)
        assert lines[2].startswith(f"error: {process}{busy} is in use by another run")
        assert len(lines) == 3, errors
    assert not list(busy.iterdir())


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_line(tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_steps": 8, "log_every": 0, "eval_every": 0}
    whole, full = tmp_path / "whole", tmp_path / "full"
    succeed(full, whole, steps=[2, 8], **options)
    ((code, _, errors),) = train(full, faults=["no room"], **options)
    assert code == 2
    assert errors.count("\n") == 1, errors
    assert "a checkpoint could not be written (File too large)" in errors
    assert f"the last good one is {full / 'checkpoints' / '2'}" in errors
    # With room again, it goes on as if nothing had been.
    succeed(full, **options)
    for a, b in zip(final(full), final(whole), strict=True):
        np.testing.assert_array_equal(a, b)
