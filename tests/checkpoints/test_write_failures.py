"""Whatever a library says of a failed write, the system's reason is found in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drsformer_jax.checkpoints import write_failures
from drsformer_jax.checkpoints.write_failures import cause_of_failure, written_or_refused
from drsformer_jax.errors import UserError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (OSError(errno.EDQUOT, "over"), "Disk quota exceeded", "make room"),
        (PermissionError(errno.EACCES, "no"), "Permission denied", "make it writable"),
        (ValueError("RESOURCE_EXHAUSTED: x: No space left on device"), "No space left", "room"),
        (
            caused(RuntimeError("unexpected pos 704"), OSError(errno.ENOSPC, "full")),
            "No space left",
            "make room",
        ),
        (FileNotFoundError(errno.ENOENT, "gone"), "No such file", "vanished"),
        (ValueError("Save failed: 411/411 params are missing in it"), "is not there", "vanished"),
        (OSError(errno.ESTALE, "stale"), "Stale file handle", "see to the drive"),
        (KeyError("x" * 500), "KeyError: 'xx", "try it once more"),
    ],
)
def test_causes(error: Exception, reason: str, remedy: str, tmp_path: Path) -> None:
    told, helps = cause_of_failure(error, tmp_path)
    assert reason in told
    assert remedy in helps
    assert len(told) < 220
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_told_the_drive_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ValueError("Save failed: 411/411 params are missing in checkpoint")
    assert cause_of_failure(error, tmp_path / "nowhere")[0] == "No such file or directory"

    def full(**_: object) -> Iterator[None]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write_failures.tempfile, "TemporaryFile", full)
    assert cause_of_failure(error, tmp_path)[0] == "No space left on device"


def test_mistakes_of_ours_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), written_or_refused("w.pth"):
        raise ZeroDivisionError
    full = RuntimeError("I/O error: No space left on device (os error 28)")
    told = r"^w\.pth cannot be written: No space left on device$"
    with pytest.raises(UserError, match=told), written_or_refused("w.pth"):
        raise full
