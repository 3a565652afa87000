"""One run a workdir: refused beside a living run, taken over from a dead one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from reference.toy_training import RandomPairs, options_of, small_config

from drsformer_jax.errors import UserError
from drsformer_jax.training import workdir_lock
from drsformer_jax.training.claim import LOCK_FILE, Claim
from drsformer_jax.training.loop import train
from drsformer_jax.training.workdir_lock import WorkdirLock

HOLDER = """
import sys, time
from pathlib import Path
from drsformer_jax.training.workdir_lock import WorkdirLock
lock = WorkdirLock(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(600)
"""


def claim_of_another_host(workdir: Path, beat: int = 0) -> Claim:
    claim = Claim("elsewhere", 7, "2026-01-02 03:04:05+00:00", "another-machine", "a" * 32, beat)
    (workdir / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(claim)))
    return claim


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdir_lock, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(workdir_lock, "POLL_SECONDS", 0.05)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drive that knows no locks."""
    monkeypatch.setattr(workdir_lock, "_try_to_lock", lambda handle: None)


def test_a_second_one_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    lock = WorkdirLock(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError, match="in use by another run") as caught:
        WorkdirLock(tmp_path)
    told = str(caught.value)
    claim = Claim(**json.loads((tmp_path / LOCK_FILE).read_text()))
    assert claim.process == os.getpid()
    for part in (claim.host, f"process {os.getpid()}", claim.since, str(tmp_path / LOCK_FILE)):
        assert part in told
    assert "\n" not in told
    assert content(tmp_path) == before
    lock.release()
    assert not content(tmp_path)
    WorkdirLock(tmp_path).release()


def test_a_killed_one_is_taken_over_at_once(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"taken\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on host"):
        WorkdirLock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / LOCK_FILE).exists()
    began = time.monotonic()
    WorkdirLock(tmp_path).release()
    assert time.monotonic() - began < 1


@pytest.mark.usefixtures("impatient")
def test_a_silent_one_on_another_host_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim_of_another_host(tmp_path)
    WorkdirLock(tmp_path).release()
    assert "names process 7 on host elsewhere" in capsys.readouterr().out


@pytest.mark.usefixtures("impatient", "no_locks")
@pytest.mark.parametrize("beat_seconds", [0.1, 600])
def test_without_locks_signs_of_life_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beat_seconds: float
) -> None:
    monkeypatch.setattr(workdir_lock, "BEAT_SECONDS", beat_seconds)
    lock = WorkdirLock(tmp_path)
    if beat_seconds < 1:
        with pytest.raises(UserError, match="in use"):
            WorkdirLock(tmp_path)
        lock.check()
        lock.release()
        return
    second = WorkdirLock(tmp_path)
    with pytest.raises(UserError, match="in use by another run"):
        lock.check()
    lock.release()
    second.check()
    second.release()
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.usefixtures("no_locks")
def test_one_that_was_taken_over_writes_no_more_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workdir_lock, "BEAT_SECONDS", 0.02)
    lock = WorkdirLock(tmp_path)
    claim_of_another_host(tmp_path)
    before = content(tmp_path)
    time.sleep(0.2)
    assert content(tmp_path) == before
    lock.release()
    assert content(tmp_path) == before


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_a_file_server_keeps_is_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_of_another_host(tmp_path)
    monkeypatch.setattr(workdir_lock, "_try_to_lock", lambda handle: False)
    with pytest.raises(UserError, match="process 7 on host elsewhere"):
        WorkdirLock(tmp_path)


def test_a_removed_lock_is_taken_again_and_a_removed_workdir_is_told(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    lock = WorkdirLock(workdir)
    (workdir / LOCK_FILE).unlink()
    lock.check()
    with pytest.raises(UserError, match="in use"):
        WorkdirLock(workdir)
    (workdir / LOCK_FILE).unlink()
    workdir.rmdir()
    with pytest.raises(UserError, match="is gone"):
        lock.check()
    lock.release()


def start(workdir: Path, source: Any = None, **changes: Any) -> Any:
    config = small_config(eval_every=0, **changes)
    return train(config.to_dict(), options_of(config), source or RandomPairs(), workdir)


@pytest.mark.usefixtures("toy_network")
def test_training_beside_another_run_touches_nothing(tmp_path: Path) -> None:
    start(tmp_path, total_steps=2)
    assert not (tmp_path / LOCK_FILE).exists()
    lock = WorkdirLock(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError, match="in use by another run"):
        start(tmp_path)
    assert content(tmp_path) == before
    lock.release()
    assert int(start(tmp_path).step) == 6


class TakenOver(RandomPairs):
    """A source during whose work another host's run takes the workdir over."""

    def __init__(self, workdir: Path) -> None:
        super().__init__()
        self.workdir: Path | None = workdir

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Once: the file is empty for a moment while it is written.
        if workdir := self.workdir:
            self.workdir = None
            claim_of_another_host(workdir)
        return super().__getitem__(index)


@pytest.mark.usefixtures("toy_network")
def test_a_run_whose_workdir_was_taken_over_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in use by another run \\(process 7 on host elsewhere"):
        start(tmp_path, TakenOver(tmp_path))
    assert not list((tmp_path / "checkpoints").iterdir())
    assert (tmp_path / LOCK_FILE).exists()
