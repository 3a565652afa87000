"""A data set built by several processes: examples are staged in parts, then written as one set.

What decides the files of a set, how many there are and where each ends, is the size of all examples
together. So parts read, check and convert, and `merge` alone writes records.

    OUT/.drsformer/units/SPLIT/NUMBER.npz   examples, as TensorFlow Datasets takes them
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drsformer_jax.datasets.build import check_arguments, write_records
from drsformer_jax.errors import UserError, damage_in_one_line
from drsformer_jax.files import atomic_path
from drsformer_jax.jobs.folder import NAME, JobFolder
from drsformer_jax.jobs.status import status
from drsformer_jax.jobs.units import MOST_TOGETHER, Unit
from drsformer_jax.jobs.working import Worker

if TYPE_CHECKING:
    from drsformer_jax.datasets.builders.pairs import Source

COMMAND = "drsformer data build"
FILES = f"{NAME}/units/{{}}.npz"
_SIDES = ("input", "target")


def begin(
    name: str, source: Path, out: Path, *, form: str, partial: bool, overwrite: bool
) -> tuple[JobFolder, list[Unit]]:
    """Takes OUT for building a set, or goes on with it; returns its units of `MOST_TOGETHER` pairs.

    Raises:
      UserError: the folder is not that set, it was built before, or OUT is another job's.
    """
    check_arguments(name, source, out, form)
    from drsformer_jax.datasets.builders.pairs import PairsBuilder, open_splits

    written = out / name / form / str(PairsBuilder.VERSION)
    if written.exists():
        raise UserError(f"{written}: is there already; remove it to build it anew")
    splits = open_splits(name, source, partial=partial, verify=False)
    folder = JobFolder(out)
    made_with = {
        **{"command": COMMAND, "set": name, "source": str(source), "form": form},
        "pairs": {split: len(pairs) for split, pairs in splits.items()},
    }
    folder.begin(made_with, overwrite=overwrite, files=FILES)
    units = []
    for split, pairs in splits.items():
        for start in range(0, len(pairs), MOST_TOGETHER):
            unit = f"{split}/{start // MOST_TOGETHER:06d}"
            sources = tuple(
                str(path) for index in _indices(unit, pairs) for path in pairs.files(index)
            )
            units.append(Unit(unit, sources, (str(out / FILES.format(unit)),)))
    return folder, units


def _indices(unit: str, pairs: Source) -> range:
    start = int(unit.rpartition("/")[2]) * MOST_TOGETHER
    return range(start, min(start + MOST_TOGETHER, len(pairs)))


def make_worker(out: Path, writer: str, stopped: Callable[[], int]) -> Worker:
    """A worker that stages examples, in its process."""
    from drsformer_jax.datasets.builders.pairs import examples, open_splits

    folder = JobFolder(out)
    job = folder.open()
    splits = open_splits(job["set"], Path(job["source"]), partial=True, verify=False)

    def work(unit: Unit, worker: Worker) -> dict[str, int]:
        del worker
        pairs = splits[unit.name.rpartition("/")[0]]
        indices = _indices(unit.name, pairs)
        if problems := [found for index in indices for found in pairs.problems(index)]:
            raise UserError("; ".join(problems))
        _write(Path(unit.outputs[0]), list(examples(pairs, job["form"], indices)))
        return {"pairs": len(indices)}

    return Worker(work, folder, writer, "cpu", stopped)


def _write(path: Path, found: Sequence[dict[str, Any]]) -> None:
    arrays: dict[str, Any] = {"name": np.array([example["name"] for example in found])}
    for index, example in enumerate(found):
        for side in _SIDES:
            value = example[side]
            is_file = isinstance(value, io.BytesIO)
            arrays[f"{side}{index}"] = (
                np.frombuffer(value.getvalue(), np.uint8) if is_file else value
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _read(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with damage_in_one_line(path), np.load(path, allow_pickle=False) as arrays:
            for index, name in enumerate(arrays["name"]):
                sides = {side: arrays[f"{side}{index}"] for side in _SIDES}
                is_file = sides["input"].ndim == 1
                yield {
                    **{s: io.BytesIO(a.tobytes()) if is_file else a for s, a in sides.items()},
                    "name": str(name),
                }


def merge(out: Path) -> Path:
    """Writes the set that was staged in OUT, byte for byte what one process writes; see `build`.

    What was staged is removed.

    Raises:
      UserError: not all is staged, or the set cannot be written.
    """
    folder = JobFolder(out)
    job = folder.open()
    if job.get("command") != COMMAND:
        raise UserError(f"{out}: holds a job of {job.get('command')}, and no set to merge")
    text, is_done = status(out)
    if not is_done:
        told = "; ".join(" ".join(line.split()) for line in text.splitlines()[1:])
        raise UserError(f"{out}: not all of it is done: {told}")
    splits: dict[str, list[Path]] = {split: [] for split in job["pairs"]}
    for unit in sorted(folder.listed()):
        splits[unit.rpartition("/")[0]].append(out / FILES.format(unit))
    staged = {split: _read(paths) for split, paths in splits.items()}
    written = write_records(job["set"], Path(job["source"]), out, form=job["form"], staged=staged)
    shutil.rmtree(folder.path)
    return written
