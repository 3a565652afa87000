"""Who writes into a workdir, as its lock file says it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import socket
import uuid
from pathlib import Path

from drsformer_jax.errors import UserError

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

    def encoded(self) -> bytes:
        """The text of the file."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def decoded(cls, text: bytes) -> Claim | None:
        """What a file says; None: nothing, or nothing of a run."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def next(self) -> Claim:
        """The same with one more sign of life."""
        return dataclasses.replace(self, beat=self.beat + 1)


def own_claim() -> Claim:
    """Of this process; another one each time."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Claim(socket.gethostname(), os.getpid(), now, _machine(), uuid.uuid4().hex)


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def in_use(workdir: Path, other: Claim | None) -> UserError:
    """The error for a workdir that another run writes into."""
    who = str(other) if other else "a process that does not give its name"
    return UserError(
        f"{workdir} is in use by another run ({who}): wait until it has ended, stop it, or name "
        f"another workdir (if it is gone for certain, remove {workdir / LOCK_FILE})"
    )


def tell_waiting(file: Path, other: Claim) -> None:
    """Says that another run's sign of life is waited for."""
    print(
        f"{file} names {other}: waiting for a sign of life, for at most {SILENCE_SECONDS:.0f} s",
        flush=True,
    )
