"""One run a workdir: who writes there says so, in a file that is locked while the run lives.

The system's lock on WORKDIR/run.lock ends with its process, however that ends, and a network drive
that knows locks keeps it for all its hosts. Some drives keep it for each host alone or know none:
there the file's text counts, to which the run gives a sign of life every `BEAT_SECONDS`. A run on
another host that gives none for `SILENCE_SECONDS` is gone. A bucket knows no locks either, but
replaces an object only in the version that one has seen (`training.bucket_lock`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.errors import UserError
from drsformer_jax.files import make_folder
from drsformer_jax.processes import is_first, together
from drsformer_jax.training.bucket_lock import BucketLock
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

try:
    import fcntl
except ImportError:  # Windows: signs of life alone
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[Callable[[], None]]:
    """While the block runs, no other run writes into the workdir, which is made if need be.

    The first process of a run takes the lock, and the others agree.

    Yields:
      A function to be called by all processes before something is written that the next run
      starts from. Raises a UserError: the workdir is gone, or another run's by now.

    Raises:
      UserError: another run writes there.
      OSError: the folder cannot be written.
    """
    lock: WorkdirLock | BucketLock | None = None

    def check() -> None:
        with together():
            if lock is not None:
                lock.check()

    with together():
        if is_first():
            make_folder(workdir)
            lock = BucketLock(workdir) if is_in_bucket(workdir) else WorkdirLock(workdir)
    try:
        yield check
    finally:
        if lock is not None:
            lock.release()


class WorkdirLock:
    """A process's right to write into a workdir, until it is released or the process ends."""

    def __init__(self, workdir: Path) -> None:
        """Takes the lock; that of a run that is gone is taken over.

        Raises:
          UserError: another run has it.
          OSError: the folder cannot be written.
        """
        self._workdir, self._path = workdir, workdir / LOCK_FILE
        self._claim = own_claim()
        self._using_handle = threading.Lock()
        self._handle = self._take()
        self._released = threading.Event()
        threading.Thread(target=self._give_signs_of_life, daemon=True).start()

    def check(self) -> None:
        """That this run still has the lock; a lock file that was removed is made anew.

        Raises:
          UserError: another run has taken it over, or the workdir is gone.
          OSError: the folder cannot be written.
        """
        if not self._workdir.is_dir():
            raise UserError(
                f"{self._workdir} is gone: it was removed, or its drive is not there "
                "any more; nothing was saved since"
            )
        if self._path.exists():
            other = _read(self._path)
            if other is not None and other.run != self._claim.run:
                raise in_use(self._workdir, other)
            return
        with self._using_handle:
            removed, self._handle = self._handle, self._take()
            os.close(removed)

    def release(self) -> None:
        """Removes the file, unless it is another run's by now."""
        self._released.set()
        with self._using_handle:
            if self._is_ours():
                with contextlib.suppress(OSError):
                    self._path.unlink()
            os.close(self._handle)

    def _is_ours(self) -> bool:
        """Whether the file is the one that was taken, and names no other run by now."""
        said = _read(self._path)
        return _is_at(self._handle, self._path) and said is not None and said.run == self._claim.run

    def _take(self) -> int:
        """The handle of the lock file, once it says who has it."""
        seen: list[Claim | None] = []  # at first, and what the file says now
        deadline = time.monotonic() + SILENCE_SECONDS
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                locked = _try_to_lock(handle)
                other = _read(self._path)
                # Its owner may have removed it meanwhile.
                if _is_at(handle, self._path) and self._may_take(other, locked, seen, deadline):
                    self._write(handle)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
            time.sleep(POLL_SECONDS if seen else 0)

    def _may_take(
        self, other: Claim | None, locked: bool | None, seen: list[Claim | None], deadline: float
    ) -> bool:
        """Whether the lock can be taken now; False: not yet.

        Args:
          other: what the file says.
          locked: as of `_try_to_lock`.
          seen: what it has said until now; grows.
          deadline: of the other one's signs of life.

        Raises:
          UserError: another run has it.
        """
        here = other is not None and other.machine == self._claim.machine
        if locked is not False and (other is None or (locked and here)):
            return True
        if locked is False and here:
            raise in_use(self._workdir, other)
        if not seen and other is not None:
            tell_waiting(self._path, other)
        seen.append(other)
        if other is not None and other != seen[0]:
            raise in_use(self._workdir, other)
        if time.monotonic() < deadline:
            return False
        if locked is False:
            raise in_use(self._workdir, other)
        return True

    def _write(self, handle: int) -> None:
        text = self._claim.encoded()
        os.lseek(handle, 0, os.SEEK_SET)
        # In one piece, and not shorter before it is longer: others may be reading.
        os.write(handle, text)
        os.ftruncate(handle, len(text))
        # Other hosts see what has reached the file server.
        os.fsync(handle)

    def _give_signs_of_life(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            self._claim = self._claim.next()
            with self._using_handle, contextlib.suppress(OSError):
                if not self._released.is_set() and self._is_ours():
                    self._write(self._handle)


def _try_to_lock(handle: int) -> bool | None:
    """Whether the file is now locked for this process; None: there are no locks on this drive."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one with this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _read(path: Path) -> Claim | None:
    """What the file says now, also on a network drive; None: nothing, or nothing of a run."""
    try:
        return Claim.decoded(path.read_bytes())
    except OSError:
        return None
