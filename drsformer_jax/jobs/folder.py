"""The folder of a job: what it was begun for, what is to be done, and who has done what of it.

OUT/.drsformer/job.json            what decides its results, and `about`, what does not
              /units-KEY.jsonl     a line a unit: its name, and the size of its image
              /ledger/WRITER.jsonl see `jobs.ledger`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import drsformer_jax
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_json, write_text
from drsformer_jax.jobs.units import Size, Unit

NAME = ".drsformer"
JOB_FILE = "job.json"
# Reading a header is mostly waiting, on the drives where it takes long.
_READERS = 16
_AT_ONCE = 1024


def read_job(folder: Path) -> dict[str, Any] | None:
    """What a folder was begun for, with `about`; {} if it was not; None if that cannot be read."""
    try:
        job = json.loads((folder / JOB_FILE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        return None
    return job if isinstance(job, dict) else None


def check_same(folder: Path, there: dict[str, Any], made_with: dict[str, Any]) -> None:
    """That what is in a folder was made for the same job.

    Raises:
      UserError: it was not; what differs is named.
    """
    if other := differences(there, made_with):
        raise UserError(
            f"{folder}: holds results made otherwise (not the same {', '.join(other)}): give "
            "what it was begun with, or --overwrite to begin anew"
        )


def differences(there: dict[str, Any], made_with: dict[str, Any]) -> list[str]:
    """The keys in which a job that was begun differs; none, too, if there is none."""
    keys = sorted(there.keys() | made_with.keys()) if there else []
    return [key for key in keys if key != "about" and there.get(key) != made_with.get(key)]


class JobFolder:
    """OUT/.drsformer: of one job, and of all who work on it.

    Attributes:
      root: OUT.
      path: the folder.
      job: what it was begun for.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / NAME
        self.job: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Tells this job's rows from those of another one in the same folder."""
        made_with = {name: value for name, value in self.job.items() if name != "about"}
        return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def ledgers(self) -> Path:
        """The folder of the ledgers."""
        return self.path / "ledger"

    def open(self) -> dict[str, Any]:
        """What was begun here.

        Raises:
          UserError: nothing, or it cannot be read.
        """
        job = self._begun()
        if job == {}:
            raise UserError(f"{self.root}: no job was begun here (--shard or --engine begin one)")
        if job is None:
            raise UserError(
                f"{self.path / JOB_FILE}: is damaged: remove {self.path}, and all is done anew"
            )
        self.job = job
        return job

    def begin(
        self, made_with: dict[str, Any], *, overwrite: bool, files: str | None = "{}"
    ) -> None:
        """Takes the folder for a job, or goes on with the same one.

        Args:
          made_with: all that decides the results, as JSON has it.
          files: the path below OUT of what is written of a unit, {} for its name; None: nothing is.
          overwrite: take it from another job, whose rows then count no more.

        Raises:
          UserError: another job is there, or the folder cannot be written.
        """
        there = self._begun()
        if there is None and not overwrite:
            self.open()  # says so
        if not overwrite:
            check_same(self.root, there or {}, made_with)
        self.job = made_with
        if there and not differences(there, made_with):
            self.job = there
            return
        about = {"key": self.key, "version": drsformer_jax.__version__, "files": files}
        try:
            self.ledgers.mkdir(parents=True, exist_ok=True)
            write_json(self.path / JOB_FILE, {**made_with, "about": about})
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        # Of two that begin at once with different settings, one has written last, and goes on.
        check_same(self.root, self._begun() or {}, made_with)

    def _begun(self) -> dict[str, Any] | None:
        """What the folder was begun for: as `read_job`, and None, too, without a whole `about`."""
        job = read_job(self.path)
        about = job.get("about") if job else {}
        is_whole = isinstance(about, dict) and isinstance(about.get("files"), str | None)
        return job if is_whole else None

    def listed(self) -> dict[str, Size]:
        """The units' names and sizes.

        Raises:
          UserError: the list is damaged.
        """
        sizes: dict[Any, Size] = {}  # few, and one object for each
        found: dict[str, Size] = {}
        try:
            for line in self._listing.read_text("utf-8").splitlines():
                match json.loads(line):
                    case [str() as name, *size] if not size or _is_size(size):
                        key = tuple(size)
                        found[name] = sizes.setdefault(key, key or None)
                    case other:
                        raise ValueError(f"no unit: {other!r}")
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{self._listing}: is damaged: remove it, and the same command lists anew what is "
                "to be done"
            ) from error
        return found

    def list(
        self, units: Sequence[Unit], size_of: Callable[[Unit], Size] | None = None
    ) -> dict[str, Size]:
        """Adds units to the list, if they are not in it; returns all.

        Args:
          size_of: of a unit's image; None: it does not matter.
        """
        known = self.listed()
        new = [unit for unit in units if unit.name not in known]
        if new:
            sizes: Iterable[Size] = [None] * len(new)
            if size_of is not None:
                with ThreadPoolExecutor(_READERS) as pool:
                    # Some at a time: what is asked of a pool takes more memory than the answer.
                    sizes = [
                        size
                        for start in range(0, len(new), _AT_ONCE)
                        for size in pool.map(size_of, new[start : start + _AT_ONCE])
                    ]
            known |= zip((unit.name for unit in new), sizes, strict=True)
            lines = (json.dumps([name, *(known[name] or ())]) for name in sorted(known))
            write_text(self._listing, "\n".join(lines) + "\n")
        return known

    @property
    def _listing(self) -> Path:
        return self.path / f"units-{self.key}.jsonl"


def _is_size(values: Sequence[Any]) -> bool:
    return len(values) == 2 and all(isinstance(value, int) and value > 0 for value in values)
