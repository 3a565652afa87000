"""Units done one after the other, by one worker: the same loop with a ledger and without."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from drsformer_jax.errors import UserError
from drsformer_jax.files import written_by
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.ledger import (
    BEGUN,
    DONE,
    FAILED,
    LEFT,
    MOST_DEATHS,
    Ledger,
    Ledgers,
    Row,
    digest_of,
    opened,
    stamp_of,
)
from drsformer_jax.jobs.units import Unit

# Does a unit for a worker; returns what is to be said of it in its row, as JSON has it, or None:
# others have yet to do a part of it. Raises UserError for one that cannot be done.
Work = Callable[[Unit, "Worker"], Any]
# Of a place and not of an image: no other one could be written, either.
_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Worker:
    """Does units one after the other; a context manager."""

    def __init__(
        self,
        work: Work,
        folder: JobFolder | None = None,
        writer: str = "",
        device: str = "",
        stopped: Callable[[], int] = lambda: 0,
    ) -> None:
        """Takes the work as a function.

        Args:
          folder: of the job; None: no ledger is kept, and nothing is on the disk for sure.
          writer: the name of the ledger.
          device: kind of what computes.
          stopped: the number of the signal that asks to end, or 0.
        """
        self._work, self._folder, self._writer, self._device = work, folder, writer, device
        self._stopped = stopped
        self._ledger: Ledger | None = None
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Worker:
        """UserError: the ledger cannot be written."""
        if self._folder is not None:
            self._ledger = self._closing.enter_context(
                opened(self._folder, self._writer, self._device)
            )
            self._closing.enter_context(written_by(self._writer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def run(self, units: Sequence[Unit], again: bool = False) -> Iterator[Row]:
        """Does units, until it is asked to stop; a row for each that was done or failed.

        Args:
          again: workers may have died of these, and have done some of them.

        Raises:
          UserError: the place is full or cannot be written.
        """
        ledgers = None
        if again and self._folder is not None:
            ledgers = Ledgers(self._folder, {unit.name for unit in units})
        for unit in units:
            if self._stopped():
                return
            if ledgers is not None and ledgers.done(unit):
                continue
            if ledgers is not None and ledgers.is_poison(unit.name):
                why = f"{unit.sources[0]}: {MOST_DEATHS} workers died of it: it is not tried again"
                row: Row | None = self._told(unit.name, FAILED, why=why, poison=True)
            else:
                row = self._do(unit)
            if row is not None:
                yield row

    def _do(self, unit: Unit) -> Row | None:
        self._begin(unit.name, {os.path.dirname(path) for path in unit.outputs})
        stamp, start = stamp_of(unit), time.perf_counter()
        try:
            result = self._work(unit, self)
            if result is None:
                self._told(unit.name, LEFT)
                return None
            told = {"sha256": digest_of(unit)} if self._ledger else {}
            told |= {"result": result} if result else {}
            status = DONE
        except UserError as error:
            if self._ledger and _errno(error) in _OF_THE_PLACE:
                self._told(unit.name, LEFT)
                raise UserError(f"{error}: the same command goes on when that is mended") from error
            status, told = FAILED, {"why": str(error)}
        except Exception:
            raise  # as if the worker had died of it
        except BaseException:
            self._told(unit.name, LEFT)
            raise
        seconds = round(time.perf_counter() - start, 3)
        return self._told(unit.name, status, input=stamp, seconds=seconds, **told)

    @contextlib.contextmanager
    def part(self, name: str, place: str) -> Iterator[None]:
        """Around a part of a unit, which has rows of its own; it writes into the folder `place`."""
        self._begin(name, {place})
        start, status = time.perf_counter(), LEFT
        try:
            yield
            status = DONE
        finally:
            self._told(name, status, seconds=round(time.perf_counter() - start, 3))

    def died_of(self, names: Collection[str]) -> set[str]:
        """Those of the names that are not to be tried again, for workers have died of them."""
        if self._folder is None:
            return set()
        ledgers = Ledgers(self._folder, names)
        return {name for name in names if ledgers.is_poison(name)}

    def _begin(self, name: str, places: Iterable[str]) -> None:
        if self._ledger is not None:
            self._ledger.write(name, BEGUN, at=sorted(places))

    def _told(self, name: str, status: str, **told: Any) -> Row:
        if self._ledger is not None:
            return self._ledger.write(name, status, **told)
        return {"id": name, "status": status, **told}


def _errno(error: BaseException) -> int | None:
    """Of the system's error behind a message to the user."""
    cause = error.__cause__
    return cause.errno if isinstance(cause, OSError) else None
