"""The folder of what is done of a film: a part appears complete, and is never done again.

A part holds the packets of some seconds, as they left the encoder, and begins with a key frame. No
container lies between them and the film: times stay the whole numbers that they are in the source.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.errors import UserError
from drsformer_jax.files import TEMPORARY, atomic_path, write_json
from drsformer_jax.jobs.folder import JOB_FILE, check_same, differences, read_job

JOINED = f"{TEMPORARY}joined"


class Parts:
    """OUT.parts, beside the film OUT that is to be written.

    Attributes:
      folder: its path.
    """

    def __init__(self, destination: Path) -> None:
        self.folder = destination.with_name(f"{destination.name}.parts")

    @contextlib.contextmanager
    def held(self, *, shared: bool = False) -> Iterator[Callable[[], bool]]:
        """Makes the folder, and keeps other runs out of it; the lock ends with the process.

        Args:
          shared: runs that share the film may come in.

        Yields:
          What tells such a run whether it is the last one in it, and if so shuts the others out.

        Raises:
          UserError: another run is at work in it.
          OSError: it cannot be made.
        """
        with contextlib.suppress(FileExistsError):  # `begin` says what is in the way
            self.folder.mkdir(parents=True, exist_ok=True)
        if os.name != "posix":
            yield lambda: True
            return
        import fcntl

        handle = os.open(self.folder, os.O_RDONLY)

        def locks(kind: int) -> bool:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # a drive that knows no locks
                pass
            return True

        try:
            if not locks(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                raise UserError(
                    f"{self.folder}: another run is at work on this film: let it end, or name "
                    "another -o"
                )
            yield lambda: locks(fcntl.LOCK_EX)
        finally:
            os.close(handle)

    def begin(self, job: dict[str, Any], *, overwrite: bool, shared: bool = False) -> None:
        """Takes the folder, which is held, for a job, or what is there of the same job.

        Raises:
          UserError: what is there is of another job.
          OSError: it cannot be written.
        """
        if not shared:
            self._remove_torn()
        there = self._job()
        if there is None:
            raise UserError(f"{self.folder}: is in the way, and not begun by this program: move it")
        if not overwrite:
            check_same(self.folder, there, job)
        elif not shared or differences(there, job):
            self._clear()
        write_json(self.folder / JOB_FILE, job)

    def _job(self) -> dict[str, Any] | None:
        """What the folder was begun for, {} if it is empty; None: it is none of ours."""
        job = read_job(self.folder)
        # Killed before the file was there, or as the last one was removed.
        is_empty = self.folder.is_dir() and all(
            path.name.startswith(TEMPORARY) for path in self.folder.iterdir()
        )
        return job if job or is_empty else None

    def path(self, number: int) -> Path:
        """Of a part, there or not."""
        return self.folder / f"{number:06d}.npz"

    def write(self, number: int, arrays: dict[str, Any]) -> None:
        """Writes a part: see `read`.

        OSError if it cannot be written.
        """
        with atomic_path(self.path(number)) as temporary:
            np.savez(temporary, **arrays)

    def read(self, number: int, *names: str) -> list[np.ndarray]:
        """Arrays of a part.

        Of its packets: `pts` and `duration` in ticks, `size` in bytes, `is_key`; `data`, all their
        bytes. And `rainy`, a number: its frames that could not be restored.

        Raises:
          UserError: it is damaged.
        """
        path = self.path(number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return [arrays[name] for name in names]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path}: is damaged: remove it and run the same command again"
            ) from error

    def remove(self) -> None:
        """Removes the folder, but not what others put in it."""
        self._clear()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _clear(self) -> None:
        self._remove_torn()
        for path in (*self.folder.glob("[0-9]*.npz"), self.folder / JOB_FILE):
            path.unlink(missing_ok=True)

    def _remove_torn(self) -> None:
        """What a killed run was writing."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
