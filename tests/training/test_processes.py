"""Several processes train as one: CPU devices, a coordinator on this machine."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.training.processes import together
from drsformer_jax.training.workdir_lock import WorkdirLock

HERE = Path(__file__).resolve().parent
PATIENCE = 900  # seconds, for a machine that is busy with something else


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train(
    workdir: Path,
    *,
    processes: int = 1,
    devices: int = 1,
    network: str = "toy",
    float64: bool = False,
    fault: str | None = None,
    **changes: Any,
) -> list[tuple[int, str, str]]:
    """Runs one program a process; for each its exit code, output and errors."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # What is compiled here runs for a moment: optimising it would take longer.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])]),
    }
    run = {
        "workdir": str(workdir),
        "processes": processes,
        "port": free_port(),
        "network": network,
        "float64": float64,
        "fault": fault,
        "changes": changes,
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "several_processes.py"), json.dumps(run | {"process": i})],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    results = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=PATIENCE)
            results.append((process.returncode, output, errors))
    finally:
        for process in started:
            process.kill()
    return results


def succeed(workdir: Path, **options: Any) -> list[str]:
    """What the processes of a run that ends well print."""
    results = train(workdir, **options)
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
    succeed(whole, devices=4, total_steps=8, **options)
    succeed(moved, devices=4, total_steps=2, **options)
    succeed(moved, devices=1, processes=2, total_steps=5, **options)
    succeed(moved, devices=8, total_steps=8, **options)
    np.testing.assert_allclose(losses(moved), losses(whole), rtol=1e-5)
    for a, b in zip(final(moved), final(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_request_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {"processes": 2, "total_steps": 40, "eval_every": 0}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    results = train(stopped, fault="SIGTERM", **options)
    assert [code for code, _, _ in results] == [143, 143], results
    assert "stopped after step" in results[0][1]
    succeed(stopped, **options)
    succeed(whole, **options)
    for a, b in zip(final(stopped), final(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("mistake", ["process 1: pair.png: vanished", "pair.png: vanished"]),
        (
            "other folder",
            ["process 1: --workdir .*elsewhere is not", "--workdir .*elsewhere is not"],
        ),
    ],
)
def test_what_one_process_cannot_do_ends_all(tmp_path: Path, fault: str, told: list[str]) -> None:
    results = train(tmp_path / "run", processes=2, fault=fault)
    for (code, _, errors), message in zip(results, told, strict=True):
        assert code == 2, results
        (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
        assert re.match(f"error: {message}", line), line


def test_all_processes_of_a_second_run_are_refused(tmp_path: Path) -> None:
    lock = WorkdirLock(tmp_path)
    results = train(tmp_path, processes=2)
    lock.release()
    for (code, _, errors), process in zip(results, ("", "process 0: "), strict=True):
        assert code == 2, results
        (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
        assert line.startswith(f"error: {process}{tmp_path} is in use by another run"), line
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_line(tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_steps": 8, "log_every": 0, "eval_every": 0}
    whole, full = tmp_path / "whole", tmp_path / "full"
    succeed(full, **(options | {"total_steps": 2}))
    ((code, _, errors),) = train(full, fault="no room", **options)
    assert code == 2
    assert errors.count("\n") == 1, errors
    assert "a checkpoint could not be written (File too large)" in errors
    assert f"the last good one is {full / 'checkpoints' / '2'}" in errors
    # With room again, it goes on as if nothing had been.
    succeed(full, **options)
    succeed(whole, **options)
    for a, b in zip(final(full), final(whole), strict=True):
        np.testing.assert_array_equal(a, b)
