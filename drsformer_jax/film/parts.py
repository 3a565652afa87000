"""The folder of what is done of a film: a part appears complete, and is never done again.

A part holds the packets of some seconds, as they left the encoder, and begins with a key frame. No
container lies between them and the film: times stay the whole numbers that they are in the source.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path, write_json

JOB_FILE = "job.json"
# Begins as all temporary names of this program do.
JOINED = ".drsformer.joined"


class Parts:
    """OUT.parts, beside the film OUT that is to be written.

    Attributes:
      folder: its path.
    """

    def __init__(self, destination: Path) -> None:
        self.folder = destination.with_name(f"{destination.name}.parts")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, and keeps other runs out of it; the lock ends with the process.

        Raises:
          UserError: another run is at work in it.
          OSError: it cannot be made.
        """
        with contextlib.suppress(FileExistsError):  # `begin` says what is in the way
            self.folder.mkdir(parents=True, exist_ok=True)
        if os.name != "posix":
            yield
            return
        import fcntl

        handle = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a drive that knows no locks
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(
                        f"{self.folder}: another run is at work on this film: let it end, or name "
                        "another -o"
                    ) from None
            yield
        finally:
            os.close(handle)

    def begin(self, job: dict[str, Any], *, overwrite: bool) -> None:
        """Takes the folder, which is held, for a job, or what is there of the same job.

        Raises:
          UserError: what is there is of another job.
          OSError: it cannot be written.
        """
        self._remove_torn()
        there = self._job()
        if there is None:
            raise UserError(f"{self.folder}: is in the way, and not begun by this program: move it")
        other = sorted(key for key in job | there if job.get(key) != there.get(key))
        if other and there and not overwrite:
            raise UserError(
                f"{self.folder}: holds parts made with another {', '.join(other)}: give what it "
                "was begun with, or --overwrite to begin anew"
            )
        if overwrite:
            self._clear()
        write_json(self.folder / JOB_FILE, job)

    def _job(self) -> dict[str, Any] | None:
        """What the folder was begun for, {} if it is empty; None: it is none of ours."""
        if not self.folder.is_dir():
            return None
        try:
            job = json.loads((self.folder / JOB_FILE).read_text("utf-8"))
        except FileNotFoundError:
            # Killed before the file was there, or as the last one was removed.
            return None if any(self.folder.iterdir()) else {}
        except (OSError, ValueError):
            return None
        return job if isinstance(job, dict) else None

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
        for path in self.folder.glob(".drsformer.*"):
            path.unlink(missing_ok=True)
