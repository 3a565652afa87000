"""A job whose work takes no time: texts in capitals, and units that kill their worker."""

from __future__ import annotations

import functools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path
from drsformer_jax.jobs.engines import Engine
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.ledger import Ledgers, Row
from drsformer_jax.jobs.units import Unit, batches
from drsformer_jax.jobs.working import Worker

# What a unit does to its worker.
ONCE, AFTER_WRITING, ALWAYS, BAD = "once", "after writing", "always", "bad"


class Texts:
    """OUT, and IN with some texts.

    Attributes:
      units: one a text.
    """

    def __init__(self, at: Path, count: int, plan: Mapping[str, str] | None = None) -> None:
        self.out, self._in, self._plan = at / "out", at / "in", dict(plan or {})
        self._in.mkdir(parents=True, exist_ok=True)
        self.units = []
        for number in range(count):
            source = self._in / f"{number:03d}.txt"
            source.write_text(f"text {number}")
            self.units.append(Unit(source.name, (str(source),), (str(self.out / source.name),)))
        (at / "calls").mkdir(exist_ok=True)
        self.folder = JobFolder(self.out)

    def begin(self, **made_with: Any) -> None:
        self.folder.begin({"command": "test", **made_with}, overwrite=False)
        self.folder.list(self.units)

    @property
    def make_worker(self) -> Callable[[str, Callable[[], int]], Worker]:
        return functools.partial(make_worker, self.out, self._plan)

    def run(
        self, engine: Engine, stopped: Callable[[], int] = lambda: 0, most: int = 10
    ) -> Iterator[Row]:
        ledgers = Ledgers(self.folder)
        left = [unit for unit in self.units if not ledgers.done(unit)]
        again = any(ledgers.is_poison(unit.name) for unit in left)
        return engine.submit(batches(left, {}, most), self.make_worker, stopped, again)

    def written(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.out.iterdir() if path.is_file()}

    def expected(self) -> dict[str, str]:
        return {unit.name: Path(unit.sources[0]).read_text().upper() for unit in self.units}

    def calls(self) -> Counter[str]:
        """How often each unit was begun."""
        return Counter(
            path.name.partition(" ")[0] for path in (self.out.parent / "calls").iterdir()
        )


def make_worker(
    out: Path, plan: Mapping[str, str], writer: str, stopped: Callable[[], int]
) -> Worker:
    folder = JobFolder(out)
    folder.open()

    def work(unit: Unit, worker: Worker) -> dict[str, int]:
        del worker
        calls, what = out.parent / "calls", plan.get(unit.name)
        count = sum(path.name.startswith(unit.name) for path in calls.iterdir())
        (calls / f"{unit.name} {count}").touch()
        if what == BAD:
            raise UserError(f"{unit.sources[0]}: is bad")
        if what == ALWAYS or (what == ONCE and not count):
            # In the middle of writing.
            with atomic_path(Path(unit.outputs[0])):
                os.kill(os.getpid(), signal.SIGKILL)
        try:
            with atomic_path(Path(unit.outputs[0])) as temporary:
                temporary.write_text(Path(unit.sources[0]).read_text().upper())
        except OSError as error:
            raise UserError(f"{unit.outputs[0]}: cannot be written ({error})") from error
        if what == AFTER_WRITING and not count:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"calls": count + 1}

    return Worker(work, folder, writer, "none", stopped)
