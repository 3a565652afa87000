"""Which file `drsformer derain` writes for which image, and that nothing is lost by it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drsformer_jax.errors import UserError, enumerated
from drsformer_jax.paths import Identity, identity, ignores_case, nothing_at

_MOST_LINKS = 40  # behind one another, as Linux follows them


@dataclass(frozen=True)
class Job:
    """An image, as it was named, and the PNG file to write."""

    source: Path
    destination: Path


def plan_jobs(inputs: list[Path], output: Path) -> list[Job]:
    """One job for each input image, folders opened, in the order given.

    A file that is given twice is one job; two links to one file are two, by their names.

    Args:
      output: a folder, there or not; or for a single image a file, NAME.png.

    Raises:
      UserError: an input is missing, a folder has no images, `output` is neither; two images would
        be written to one file; or a file would be overwritten that is an input, under any name, or
        lies beside one. All such files are named.
    """
    single = _names_a_file(output)
    sources = list(_images(inputs))
    jobs: dict[tuple[str, Identity | None], Job] = {}
    for source in sources:
        destination = output if single else output / f"{source.stem}.png"
        jobs.setdefault((source.stem, identity(source)), Job(source, destination))
    if single and len(jobs) > 1:
        raise UserError(f"-o {output}: is one file, for {len(jobs)} images: name a folder")
    found = list(jobs.values())
    _check_clashes(found, output)
    # Of all, also where two names are one job: each is beside other files.
    _check_overwriting(found, sources)
    return found


def _images(inputs: list[Path]) -> Iterator[Path]:
    from drsformer_jax.data.images import list_images

    for given in inputs:
        if given.is_dir():
            found = list_images(given)
            if not found:
                raise UserError(f"{given}: no images in this folder")
            yield from found
        elif given.exists():
            yield given
        else:
            raise nothing_at(given)


def _names_a_file(output: Path) -> bool:
    """Whether `output` is to be a file and no folder.

    Raises:
      UserError: it names a file of another kind than PNG.
    """
    from drsformer_jax.data.formats.pillow import picture_suffixes

    suffix = output.suffix.lower()
    if output.is_dir():
        return False
    if suffix in picture_suffixes() - {".png"}:
        raise UserError(f"-o {output}: derain writes PNG: name a file NAME.png, or a folder")
    if suffix != ".png" and output.exists():
        raise UserError(f"-o {output}: is a file, not a folder")
    return suffix == ".png"


def _check_clashes(jobs: list[Job], output: Path) -> None:
    """That every job has a file of its own."""
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
            "suffix (FOLDER/*.jpg), each with an -o folder of its own"
        )


def _clashes(jobs: list[Job], key: Callable[[str], str]) -> list[tuple[Path, list[Path]]]:
    """Destinations that several images have, and these."""
    rivals: dict[str, list[Job]] = {}
    for job in jobs:
        rivals.setdefault(key(job.destination.name), []).append(job)
    return [
        (group[0].destination, [job.source for job in group])
        for group in rivals.values()
        if len(group) > 1
    ]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _are_one_file(output: Path) -> bool:
    """Whether names that differ by their letters' case will be one file in a folder."""
    folder = output.absolute()
    while not folder.is_dir():
        folder = folder.parent
    try:
        return ignores_case(folder)
    except OSError:
        # Writing will say what is wrong.
        return False


def _check_overwriting(jobs: list[Job], sources: list[Path]) -> None:
    """That no file is replaced which is an input, or lies beside one."""
    inputs = {identity(source): source for source in sources}
    folders = {identity(path.parent): source for source in sources for path in _names_of(source)}
    problems = []
    for job in jobs:
        if not os.path.lexists(job.destination):
            continue
        # None: a link to nothing, which is not to be lost either.
        own = identity(job.destination)
        same = inputs.get(own) if own else None
        beside = folders.get(identity(job.destination.parent))
        if same is not None:
            problems.append(f"{job.destination} would overwrite an input ({same})")
        elif beside is not None:
            problems.append(f"{job.destination} exists beside its input {beside}")
    if problems:
        raise UserError(f"{enumerated(problems)}: choose another folder (-o)")


def _names_of(path: Path) -> Iterable[Path]:
    """A path, and all that it leads to by links, one behind the other."""
    names = [path]
    while names[-1].is_symlink() and len(names) <= _MOST_LINKS:
        names.append(names[-1].parent / os.readlink(names[-1]))
    return names
