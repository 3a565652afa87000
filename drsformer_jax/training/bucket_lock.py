"""One run a workdir in a bucket, by signs of life alone."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from drsformer_jax.buckets import filesystem, reached, remove
from drsformer_jax.errors import UserError
from drsformer_jax.training.claim import (
    BEAT_SECONDS,
    LOCK_FILE,
    POLL_SECONDS,
    SILENCE_SECONDS,
    Claim,
    in_use,
    own_claim,
    tell_waiting,
)


class BucketLock:
    """A process's right to write into a workdir in a bucket, until it is released.

    The object says who has it. Each version of it is written in the place of the one before that
    its writer has seen, so that of several runs that find a silent one only one takes over.
    """

    def __init__(self, workdir: Path) -> None:
        """Takes the lock; that of a run that gives no sign of life is taken over.

        Raises:
          UserError: another run has it, or the bucket cannot be written.
        """
        self._workdir, self._path = workdir, workdir / LOCK_FILE
        _check_seen(workdir)
        self._claim = own_claim()
        self._writing = threading.Lock()
        self._version = self._take()
        self._released = threading.Event()
        threading.Thread(target=self._give_signs_of_life, daemon=True).start()

    def check(self) -> None:
        """That this run still has the lock; an object that was removed is made anew.

        Raises:
          UserError: another run has taken it over, or the bucket cannot be written.
        """
        with self._writing:
            version, said = _read_version(self._path)
            if version == 0:
                self._version = self._replace(0)
            elif not self._is_ours(said):
                raise in_use(self._workdir, Claim.decoded(said))
            else:
                self._version = version

    def release(self) -> None:
        """Removes the object, unless it is another run's by now."""
        self._released.set()
        with self._writing, contextlib.suppress(UserError):
            if self._is_ours(_read_version(self._path)[1]):
                remove(self._path)

    def _is_ours(self, said: bytes) -> bool:
        other = Claim.decoded(said)
        return other is not None and other.run == self._claim.run

    def _replace(self, version: int) -> int:
        """Writes the claim in the place of a version, and gives its own.

        Raises:
          UserError: another run was faster.
        """
        try:
            return _write_version(self._path, version, self._claim.encoded())
        except FileExistsError:
            now, said = _read_version(self._path)
            # An answer that was lost on its way: the request was sent, and done, twice.
            if self._is_ours(said):
                return now
            raise in_use(self._workdir, Claim.decoded(said)) from None

    def _take(self) -> int:
        """The version of the object that says that this run has the lock."""
        version, said = _read_version(self._path)
        other, deadline = Claim.decoded(said), time.monotonic() + SILENCE_SECONDS
        if other is not None:
            tell_waiting(self._path, other)
        while other is not None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now, said = _read_version(self._path)
            if now == 0:
                return self._replace(0)
            if now != version:
                raise in_use(self._workdir, Claim.decoded(said))
        return self._replace(version)

    def _give_signs_of_life(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            # What has gone wrong, the check before the next checkpoint tells.
            with self._writing, contextlib.suppress(UserError):
                if not self._released.is_set():
                    self._claim = self._claim.next()
                    self._version = self._replace(self._version)


def _check_seen(path: Path) -> None:
    """Finds before the work that the bucket itself may not be looked at.

    Orbax asks what kind of bucket it is when it removes the first checkpoint.

    Raises:
      UserError: why.
    """
    bucket, _, _ = filesystem().split_path(str(path))
    with reached(path):
        filesystem().call("GET", "b/{}", bucket)


def _read_version(path: Path) -> tuple[int, bytes]:
    """The number of an object's present version, and its content; 0 and nothing: there is none.

    Raises:
      UserError: it cannot be read.
    """
    bucket, name, _ = filesystem().split_path(str(path))
    with reached(path):
        try:
            told, content = filesystem().call("GET", "b/{}/o/{}", bucket, name, alt="media")
        except FileNotFoundError:
            return 0, b""
        return int(told["x-goog-generation"]), content


def _write_version(path: Path, number: int, content: bytes) -> int:
    """Writes an object only if its present version is that of a number; 0: if there is none.

    Returns:
      The number of the new version.

    Raises:
      FileExistsError: it is another one.
      UserError: it cannot be written.
    """
    files = filesystem()
    bucket, name, _ = files.split_path(str(path))
    address = f"{files._location}/upload/storage/v1/b/{bucket}/o"
    options = {"uploadType": "media", "name": name, "ifGenerationMatch": str(number)}
    with reached(path):
        told = files.call("POST", address, data=content, json_out=True, **options)
    return int(told["generation"])
