"""One run a workdir: who writes there says so, in a file that is locked while the run lives.

The system's lock on WORKDIR/run.lock ends with its process, however that ends, and a network drive
that knows locks keeps it for all its hosts. Some drives keep it for each host alone or know none:
there the file's text counts, to which the run gives a sign of life every `BEAT_SECONDS`. A run on
another host that gives none for `SILENCE_SECONDS` is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from drsformer_jax.errors import UserError
from drsformer_jax.processes import is_first, together

try:
    import fcntl
except ImportError:  # Windows: signs of life alone
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "run.lock"

# A lock on NFS outlives the host that held it by 90 seconds at most; silence is longer.
BEAT_SECONDS = 20.0
SILENCE_SECONDS = 100.0
POLL_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the file says: who writes into the workdir.

    Attributes:
      host, process, since: for people.
      machine: which running system it is; a host's name may be another machine's, too.
      run: unique.
      beat: signs of life so far.
    """

    host: str
    process: int
    since: str
    machine: str
    run: str
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host}, since {self.since}"


def _own_claim() -> Claim:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Claim(socket.gethostname(), os.getpid(), now, _machine(), uuid.uuid4().hex)


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return f"{socket.gethostname()}-{uuid.getnode():x}"


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
    lock: WorkdirLock | None = None

    def check() -> None:
        with together():
            if lock is not None:
                lock.check()

    with together():
        if is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            lock = WorkdirLock(workdir)
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
        self._claim = _own_claim()
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
                raise self._in_use(other)
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
            raise self._in_use(other)
        if not seen and other is not None:
            print(
                f"{self._path} names {other}: waiting for a sign of life, for at most "
                f"{SILENCE_SECONDS:.0f} s",
                flush=True,
            )
        seen.append(other)
        if other is not None and other != seen[0]:
            raise self._in_use(other)
        if time.monotonic() < deadline:
            return False
        if locked is False:
            raise self._in_use(other)
        return True

    def _in_use(self, other: Claim | None) -> UserError:
        who = str(other) if other else "a process that does not give its name"
        return UserError(
            f"{self._workdir} is in use by another run ({who}): wait until it has ended, stop it, "
            f"or name another workdir (if it is gone for certain, remove {self._path})"
        )

    def _write(self, handle: int) -> None:
        text = json.dumps(dataclasses.asdict(self._claim)).encode() + b"\n"
        os.lseek(handle, 0, os.SEEK_SET)
        # In one piece, and not shorter before it is longer: others may be reading.
        os.write(handle, text)
        os.ftruncate(handle, len(text))
        # Other hosts see what has reached the file server.
        os.fsync(handle)

    def _give_signs_of_life(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            self._claim = dataclasses.replace(self._claim, beat=self._claim.beat + 1)
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
        return Claim(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
