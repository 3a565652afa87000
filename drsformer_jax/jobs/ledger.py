"""What is done: a line of JSON a unit, from all who work on a job, each in a file of its own.

A line says `job`, `id`, `status`, and of what is done `input` ([size, time of change in ns] of each
source), `sha256` of the outputs, `seconds`, `host`, `device` and `result`. The status is "begun"
before the work, and then "done", "failed" (`why`; `poison`: not to be tried again) or "left" (asked
to stop). A unit whose lines end with "begun" has seen its worker die.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from drsformer_jax.errors import UserError
from drsformer_jax.files import remove_temporaries, sha256
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.units import Unit

BEGUN, DONE, FAILED, LEFT = "begun", "done", "failed", "left"
# So many workers may die of a unit before it is given up.
MOST_DEATHS = 3

Row = dict[str, Any]
_KINDS = {"job": str, "id": str, "status": str, "at": list, "result": dict}


class Seen(NamedTuple):
    """What the ledgers say of a unit; `stamp` is `stamp_of` its sources, as text."""

    status: str
    stamp: str
    result: Any = None
    why: str = ""
    poison: bool = False


class Ledgers:
    """What all ledgers of a job say.

    Attributes:
      seen: by name of the unit, and once for each state that its sources were in; the last is that
        of the last row.
      deaths: of workers, by name of the unit.
      torn: lines that could not be read.
    """

    def __init__(
        self,
        folder: JobFolder,
        names: Collection[str] | None = None,
        *,
        with_results: bool = False,
    ) -> None:
        """Reads them; of the units of these names, or of all."""
        self._with_results = with_results
        self.seen: dict[str, tuple[Seen, ...]] = {}
        self.deaths: Counter[str] = Counter()
        self.torn = 0
        for path in sorted(folder.ledgers.glob("*.jsonl")):
            with path.open("rb") as file:
                for line in file:
                    self._take(line, folder.key, names)

    def _take(self, line: bytes, key: str, names: Collection[str] | None) -> None:
        row = read_row(line)
        if row is None:
            self.torn += bool(line.strip())
            return
        name, status = row["id"], row["status"]
        if row.get("job") != key or (names is not None and name not in names):
            return
        self.deaths[name] += 1 if status == BEGUN else -1
        if not self.deaths[name]:
            del self.deaths[name]
        if status in (DONE, FAILED):
            result = row.get("result") if self._with_results else None
            told = result, row.get("why", ""), bool(row.get("poison"))
            new = Seen(status, str(row.get("input")), *told)
            known = self.seen.get(name, ())
            # What one has done another may have failed to do.
            if status == DONE or not any(s.status == DONE and s.stamp == new.stamp for s in known):
                self.seen[name] = (*(seen for seen in known if seen.stamp != new.stamp), new)

    def done(self, unit: Unit) -> Seen | None:
        """What is said of it, if it is done, its outputs are there, and its sources as they were.

        None: it is to be done.
        """
        known = [seen for seen in self.seen.get(unit.name, ()) if seen.status == DONE]
        if not known or not all(map(os.path.isfile, unit.outputs)):
            return None
        stamp = str(stamp_of(unit))
        return next((seen for seen in known if seen.stamp == stamp), None)

    def is_poison(self, name: str) -> bool:
        """Whether so many workers have died of a unit that it is not to be tried again."""
        known = self.seen.get(name, ())
        return any(seen.poison for seen in known) or self.deaths[name] >= MOST_DEATHS


def read_row(line: bytes) -> Row | None:
    """A row, or None for a line that is none: torn, or damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = {"at": [], "result": {}, **row} if isinstance(row, dict) else {}
    if not all(isinstance(whole.get(key), kind) for key, kind in _KINDS.items()):
        return None
    return row if all(isinstance(place, str) for place in whole["at"]) else None


def stamp_of(unit: Unit) -> list[list[int]]:
    """Size and time of change of each source; nothing for one that is not there."""
    stamp = []
    for source in unit.sources:
        with contextlib.suppress(OSError):
            status = os.stat(source)
            stamp.append([status.st_size, status.st_mtime_ns])
    return stamp


def digest_of(unit: Unit) -> str | None:
    """SHA-256 of the first output, or None where nothing is written."""
    return sha256(Path(unit.outputs[0])) if unit.outputs else None


class Ledger:
    """The file of one writer."""

    def __init__(self, folder: JobFolder, writer: str, device: str) -> None:
        """Opens it, and removes what a killed one of the same name was writing.

        OSError if it cannot be written.
        """
        self._key, self._device, self._host = folder.key, device, platform.node()
        self._path = folder.ledgers / f"{writer}.jsonl"
        self._file = io.FileIO(self._path, "a")
        # Else another process may be at it, whose files are not to be touched.
        is_alone = _lock(self._file)
        line, places = b"\n", set[str]()
        with self._path.open("rb") as file:
            for line in file:
                places.update((read_row(line) or {}).get("at", ()))
        if not line.endswith(b"\n"):
            self._file.write(b"\n")
        if is_alone:
            for place in places:
                remove_temporaries(Path(place), writer)

    def write(self, name: str, status: str, **told: Any) -> Row:
        """Appends a line, in one piece, so that lines of two writers do not mix.

        Raises:
          UserError: it cannot be written.
        """
        row = {"job": self._key, "id": name, "status": status, **told}
        if status != BEGUN:
            row |= {"host": self._host, "device": self._device}
        data = json.dumps(row).encode() + b"\n"
        try:
            if self._file.write(data) != len(data):
                raise OSError(None, "the disk is full")
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from error
        return row

    def close(self) -> None:
        """Lets another process have it."""
        self._file.close()


def _lock(file: io.FileIO) -> bool:
    """Whether the lock on a file could be had; it ends with the process."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # another process has it, or the drive knows no locks
        return False
    return True


@contextlib.contextmanager
def opened(folder: JobFolder, writer: str, device: str) -> Iterator[Ledger]:
    """A writer's ledger.

    Raises:
      UserError: it cannot be written.
    """
    try:
        ledger = Ledger(folder, writer, device)
    except OSError as error:
        raise UserError(f"{folder.ledgers}: cannot be written ({error.strerror})") from error
    try:
        yield ledger
    finally:
        ledger.close()
