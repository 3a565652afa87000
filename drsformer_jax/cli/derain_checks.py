"""That `drsformer derain` writes no file twice, and none over another one of the user."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.errors import UserError, enumerated
from drsformer_jax.paths import identity, ignores_case, is_stream

_MOST_LINKS = 40  # behind one another, as Linux follows them


class Job(Protocol):
    """An image, and the file to write."""

    @property
    def source(self) -> Path: ...

    @property
    def destination(self) -> Path: ...


def check_clashes(jobs: Sequence[Job], output: Path) -> None:
    """That every job has a file of its own, in the folder `output` or below it.

    Raises:
      UserError: several images would be written to one file; all such are named.
    """
    exact = _clashes(jobs, str)
    # Asked of the file system only where it matters.
    alike = [] if exact else _clashes(jobs, _folded)
    if alike and not _are_one_file(output):
        return
    problems = [
        f"{' and '.join(map(str, rivals))} to {destination}"
        for destination, rivals in (exact or alike)
    ]
    if problems:
        raise UserError(
            f"{len(problems)} {'file' if len(problems) == 1 else 'files'} would be written more "
            f"than once: {enumerated(problems)}. Derain one folder after the other, and in it one "
            "suffix (FOLDER/*.jpg), each with an -o folder of its own; --ext auto keeps a.jpg and "
            "a.png apart"
        )


def _clashes(jobs: Sequence[Job], key: Callable[[str], str]) -> list[tuple[Path, list[Path]]]:
    """Destinations that several images have, and these."""
    rivals: dict[str, list[Job]] = {}
    for job in jobs:
        rivals.setdefault(key(str(job.destination)), []).append(job)
    return [
        (group[0].destination, [job.source for job in group])
        for group in rivals.values()
        if len(group) > 1
    ]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _are_one_file(output: Path) -> bool:
    """Whether names that differ by their letters' case will be one file in a folder."""
    if is_in_bucket(output):
        return False
    folder = output.absolute()
    while not folder.is_dir():
        folder = folder.parent
    try:
        return ignores_case(folder)
    except OSError:
        # Writing will say what is wrong.
        return False


def check_overwriting(written: Sequence[Path], sources: Sequence[Path]) -> None:
    """That no file is replaced which is an input or lies beside one, and nothing that is no file.

    Args:
      sources: all inputs, under all names that were given.

    Raises:
      UserError: one would be; all such are named.
    """
    inputs = {identity(source): source for source in sources}
    folders = {identity(path.parent): source for source in sources for path in _names_of(source)}
    problems = []
    for path in written:
        if not os.path.lexists(path):
            continue
        # None: a link to nothing, which is not to be lost either.
        own = identity(path)
        same = inputs.get(own) if own else None
        beside = folders.get(identity(path.parent))
        if same is not None:
            problems.append(f"{path} would overwrite an input ({same})")
        elif beside is not None:
            problems.append(f"{path} exists beside its input {beside}")
        elif is_stream(path):
            problems.append(f"{path} is a device, a pipe or what is printed to")
    if problems:
        raise UserError(f"{enumerated(problems)}: choose another folder (-o)")


def _names_of(path: Path) -> Iterable[Path]:
    """A path, and all that it leads to by links, one behind the other."""
    names = [path]
    while names[-1].is_symlink() and len(names) <= _MOST_LINKS:
        names.append(names[-1].parent / os.readlink(names[-1]))
    return names
