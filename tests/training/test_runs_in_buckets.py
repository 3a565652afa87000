"""A run whose workdir is in a bucket: killed, resumed, refused, one at a time."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from reference.buckets import Buckets
from reference.programs import environment
from reference.several import run_together
from reference.toy_training import RandomPairs, options_of, small_config

from drsformer_jax.buckets import any_path
from drsformer_jax.checkpoints.runs import whole_steps
from drsformer_jax.errors import UserError
from drsformer_jax.training import bucket_lock
from drsformer_jax.training.bucket_lock import BucketLock
from drsformer_jax.training.loop import train
from drsformer_jax.training.reporting import Validation
from drsformer_jax.training.run_report import write_run_report

PROGRAM = Path(__file__).with_name("several_processes.py")
PATIENCE = 900

ADDRESS = "gs://bkt/runs/one"


def run(workdir: Path, **changes: Any) -> Any:
    config = small_config(**changes)
    picture = np.zeros((8, 24, 3), np.uint8)
    validate = lambda params, attempt: Validation({"psnr": 1.0}, "1 dB", {"seen": picture})  # noqa: E731
    return train(config.to_dict(), options_of(config), RandomPairs(), workdir, validate)


def metrics(buckets: Buckets) -> list[dict[str, float]]:
    text = buckets.content("bkt", "runs/one/metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def workdir(buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bucket_lock, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(bucket_lock, "POLL_SECONDS", 0.02)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of processes that are killed
    return any_path(ADDRESS)


@pytest.mark.usefixtures("toy_network")
def test_a_run_is_what_it_is_on_a_disk(
    workdir: Path, buckets: Buckets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = run(tmp_path / "one")
    run(workdir, total_steps=4)
    last = run(workdir)
    told = capsys.readouterr().out
    assert "resuming after step 4 from gs://bkt/runs/one/checkpoints/4" in told
    assert "TensorBoard: gs://bkt/runs/one/tensorboard" in told
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(disk), strict=True):
        np.testing.assert_array_equal(a, b)
    names = {name.removeprefix("runs/one/") for name in buckets.names_in("bkt")}
    beside = {name for name in names if not name.startswith(("checkpoints/", "tensorboard/"))}
    assert beside == {
        "config.json", "metrics.jsonl", "parameters.txt", "sessions.jsonl", "validation/seen.jpg"
    }  # fmt: skip
    assert [record["step"] for record in metrics(buckets)] == [2, 3, 4, 4, 6, 6]
    assert b'"end": 6' in buckets.content("bkt", "runs/one/sessions.jsonl").splitlines()[-1]
    assert write_run_report(workdir) == workdir / "report.html"
    assert b"seen" not in buckets.content("bkt", "runs/one/report.html")
    assert b"Validation" in buckets.content("bkt", "runs/one/report.html")


Watch = Callable[[str], bool]  # of the name of an object that is about to be written


def start(buckets: Buckets, steps: int, killed_at: Watch = lambda name: False) -> int:
    """Trains in a process of its own, which is killed at some moment; returns its exit code."""
    changes = {"total_steps": steps, "eval_every": 0}
    given = {
        "runs": [{"workdir": str(ADDRESS), "changes": changes}],
        "faults": [None],
        "processes": 1,
        "network": "toy",
        "float64": False,
    }
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(given)],
        env=environment(1),
        stdout=subprocess.DEVNULL,
    )

    def watch(method: str, address: str) -> int | None:
        if method == "POST" and killed_at(address.rpartition("name=")[2]):
            os.kill(process.pid, signal.SIGKILL)
            return 503
        return None

    buckets.watch = watch
    try:
        return process.wait(PATIENCE)
    finally:
        process.kill()
        buckets.watch = lambda method, address: None


def nth(number: int) -> Watch:
    """At an upload by its number in the process."""
    numbers = itertools.count(1)
    return lambda name: next(numbers) == number


def assert_whole(buckets: Buckets, whole: Any) -> None:
    """That a run in a bucket has ended with the parameters of one that was never killed."""
    file = io.BytesIO(buckets.content("bkt", "runs/one/final.npz"))
    for a, b in zip(np.load(file).values(), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [record["step"] for record in metrics(buckets)]
    assert steps == [2, 4, 6, 6]
    assert whole_steps(any_path(f"{ADDRESS}/checkpoints")) == [2, 4, 6]


@pytest.mark.usefixtures("toy_network", "workdir")
def test_a_run_that_is_killed_between_files_goes_on(buckets: Buckets, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", eval_every=0)
    # The mark of a checkpoint is the last of its files; the logs come before all of them.
    assert start(buckets, 6, lambda name: name.endswith("/4/commit_success.txt")) == -9
    assert "runs/one/checkpoints/4/config/metadata" in buckets.names_in("bkt")
    assert whole_steps(any_path(f"{ADDRESS}/checkpoints")) == [2]
    assert [record["step"] for record in metrics(buckets)][:2] == [2, 4]
    assert start(buckets, 6) == 0
    assert_whole(buckets, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("toy_network", "workdir")
def test_a_run_that_is_killed_at_any_upload_goes_on(buckets: Buckets, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", eval_every=0)
    for number in range(1, 46, 2):
        buckets.clear()
        code = start(buckets, 6, nth(number))
        print(number, code, whole_steps(any_path(f"{ADDRESS}/checkpoints")))
        assert start(buckets, 6) == 0
        assert_whole(buckets, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("toy_network", "workdir")
def test_two_processes_write_a_checkpoint_together(buckets: Buckets, tmp_path: Path) -> None:
    """Each of them its half of the parameters; one goes on alone, and on a disk it is the same."""

    def together(address: str, processes: int, steps: int) -> None:
        changes = {"total_steps": steps, "mesh__fsdp": 2, "eval_every": 0}
        given = {"runs": [{"workdir": address, "changes": changes}], "faults": [None]}
        given |= {"network": "toy", "float64": False}
        results = run_together(PROGRAM, given, processes, 2 // processes)
        assert [code for code, _, _ in results] == [0] * processes, results

    together(ADDRESS, 2, 4)
    assert buckets.names_in("bkt", "runs/one/checkpoints/4/state/ocdbt.process_1/")
    together(ADDRESS, 1, 6)
    disk = tmp_path / "disk"
    together(str(disk), 2, 4)
    together(str(disk), 1, 6)
    found, wanted = io.BytesIO(buckets.content("bkt", "runs/one/final.npz")), disk / "final.npz"
    for a, b in zip(np.load(found).values(), np.load(wanted).values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("toy_network")
@pytest.mark.parametrize(
    ("status", "told"),
    [(403, "permission denied: give"), (401, "there are no credentials"), (404, "is no such buck")],
)
def test_a_bucket_that_cannot_be_used_is_told_before_anything(
    status: int, told: str, workdir: Path, buckets: Buckets
) -> None:
    buckets.watch = lambda method, address: status
    with pytest.raises(UserError) as error:
        run(workdir)
    assert str(error.value).startswith(f"{ADDRESS}")
    assert told in str(error.value)
    assert not buckets.objects


@pytest.mark.usefixtures("toy_network")
def test_rights_that_are_lost_in_the_middle(workdir: Path, buckets: Buckets) -> None:
    def watch(method: str, address: str) -> int | None:
        return 403 if method == "POST" and "/checkpoints/4/" in address else None

    buckets.watch = watch
    with pytest.raises(UserError) as error:
        run(workdir)
    told = f"{ADDRESS}/checkpoints: a checkpoint could not be written (permission denied); the last"
    assert str(error.value).startswith(f"{told} good one is {ADDRESS}/checkpoints/2: give this")
    buckets.watch = lambda method, address: None
    assert int(run(workdir).step) == 6
    assert whole_steps(workdir / "checkpoints") == [2, 4, 6]


def test_rights_that_a_run_needs_later(workdir: Path, buckets: Buckets) -> None:
    buckets.watch = lambda method, address: (
        403 if address.partition("?")[0].endswith("/b/bkt") else None
    )
    with pytest.raises(UserError, match="permission denied: give this account the roles"):
        BucketLock(workdir)


def test_one_run_a_workdir(
    workdir: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 0.05)
    first = BucketLock(workdir)
    with pytest.raises(
        UserError, match=f"{ADDRESS} is in use by another run .process {os.getpid()} on"
    ):
        BucketLock(workdir)
    first.check()
    # Removed by hand, it is made anew.
    buckets.objects.clear()
    first.check()
    first.release()
    assert not buckets.objects
    # A run that is gone without a word.
    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 1e6)
    silent = BucketLock(workdir)
    second = BucketLock(workdir)
    with pytest.raises(UserError, match="in use by another run"):
        silent.check()
    silent.release()
    second.check()


def test_of_two_runs_that_take_over_one_does(
    workdir: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 1e6)
    BucketLock(workdir)
    taken = []

    def watch(method: str, address: str) -> int | None:
        if method == "POST" and not taken:
            taken.append(True)
            taken.append(BucketLock(workdir))
        return None

    buckets.watch = watch
    with pytest.raises(UserError, match="in use by another run"):
        BucketLock(workdir)
    taken[1].check()
