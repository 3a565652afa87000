"""Which file `drsformer derain` writes for which image, and in which format."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.buckets import any_path, is_in_bucket
from drsformer_jax.cli.derain_checks import check_clashes, check_overwriting
from drsformer_jax.errors import UserError
from drsformer_jax.paths import Identity, identity, local_path, nothing_at

if TYPE_CHECKING:
    from drsformer_jax.data.encoding import Format

logger = logging.getLogger(__name__)

# Standard input and output. It is this object: one made of "./-" is equal, and names a file.
STANDARD = Path("-")
DEFAULT_EXT = "png"
FILM_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".vob"),
)


def path_or_standard(text: str) -> Path:
    """What the user typed as an input or output; UserError as `local_path` raises it."""
    return STANDARD if text == "-" else local_path(text)


def output_path(text: str) -> Path:
    """What the user typed as an output, which may be in a bucket; UserError as of `any_path`."""
    return STANDARD if text == "-" else any_path(text)


def is_film(path: Path) -> bool:
    """Whether a path, by its suffix, is a film."""
    return path.suffix.lower() in FILM_SUFFIXES and not path.is_dir()


@dataclass(frozen=True)
class Job:
    """An image, as it was named, the file to write, and its format."""

    source: Path
    destination: Path
    form: Format

    @property
    def page(self) -> Path:
        """Beside the result, that of both pictures (--compare)."""
        return self.destination.with_name(f"{self.destination.name}.html")


@dataclass(frozen=True)
class Naming:
    """What images are looked for, and what their results are called.

    Attributes:
      ext: a name of `data.encoding.FORMATS` or "auto": as the input; None: the default.
      suffix: stands behind the base name.
      recursive: images in folders below are taken, and written to folders of the same names.
      skip_existing: what is there already is not written again.
      pages: whether their pages are written, too.
    """

    ext: str | None = None
    suffix: str = ""
    recursive: bool = False
    skip_existing: bool = False
    pages: bool = False

    def __post_init__(self) -> None:
        """UserError: the suffix is none."""
        if Path(self.suffix).name != self.suffix:
            raise UserError(f"--suffix {self.suffix}: is a part of names, without folders")


def plan_jobs(inputs: Sequence[Path], output: Path, naming: Naming = Naming()) -> list[Job]:
    """The images to restore: see `all_jobs`."""
    return all_jobs(inputs, output, naming)[0]


def all_jobs(inputs: Sequence[Path], output: Path, naming: Naming) -> tuple[list[Job], list[Job]]:
    """One job for each input image, folders opened, in the order given; and those left out.

    Left out are those whose results are there, where they are to be skipped.

    A file that is given twice is one job; two links to one file are two, by their names.

    Args:
      output: a folder, there or not; or for a single image a file of a format that is written.

    Raises:
      UserError: an input is missing, a folder has no images or cannot be listed, names contradict
        each other; two images would be written to one file; or a file would be overwritten that is
        an input, under any name, or lies beside one. All such files are named.
    """
    from drsformer_jax.data.encoding import format_of

    single = _names_a_file(output, naming)
    sources = list(_images(inputs, output, naming.recursive))
    jobs: dict[tuple[Path, str, Identity | None], Job] = {}
    for source, folder in sources:
        ext = _ext(source, naming)
        name = f"{'stdin' if source is STANDARD else source.stem}{naming.suffix}{ext}"
        destination = output if single else output / folder / name
        known = None if source is STANDARD else identity(source)
        form = format_of(Path(name) if destination is STANDARD else destination)
        assert form is not None  # all names were chosen so
        jobs.setdefault((destination, source.stem, known), Job(source, destination, form))
    if single and len(jobs) > 1:
        raise UserError(f"-o {output}: is one file, for {len(jobs)} images: name a folder")
    found = list(jobs.values())
    if output is STANDARD:
        return found, []
    check_clashes(found, output)
    there: list[Job] = []
    if naming.skip_existing:
        found, there = _missing(found, naming.pages)
    # Of all, also where two names are one job: each is beside other files.
    written = [job.destination for job in found] + [job.page for job in found if naming.pages]
    check_overwriting(written, [source for source, _ in sources if source is not STANDARD])
    return found, there


def _images(inputs: Sequence[Path], output: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """All images, and the folder of each in the one it was found through."""
    from drsformer_jax.data.images import list_images

    for given in inputs:
        if given is STANDARD:
            yield given, Path()
        elif given.is_dir():
            folders = _folders(given, output) if recursive else [given]
            found = [
                (image, folder.relative_to(given))
                for folder in folders
                for image in list_images(folder, names_folders=not recursive)
            ]
            if not found:
                below = " or below it" if recursive else ""
                raise UserError(f"{given}: no images in this folder{below}")
            yield from found
        elif given.exists():
            yield given, Path()
        else:
            raise nothing_at(given)


def _folders(top: Path, output: Path) -> Iterator[Path]:
    """A folder and all below it, by name; none twice, none that is hidden, nor that of the results.

    Links to folders are followed, behind the folders beside them.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    seen = {identity(output)} - {identity(top)}
    for root, folders, _ in os.walk(top, onerror=refuse, followlinks=True):
        here = identity(root)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        shown = (name for name in folders if name[0] != ".")
        folders[:] = sorted(shown, key=lambda name: (os.path.islink(Path(root, name)), name))
        yield Path(root)


def _names_a_file(output: Path, naming: Naming) -> bool:
    """Whether `output` is to be a file and no folder.

    Raises:
      UserError: it names a file of a kind that is not written, or of another one than --ext says.
    """
    from drsformer_jax.data.encoding import FORMATS, format_of
    from drsformer_jax.data.formats.pillow import picture_suffixes

    if output is not STANDARD:
        on_disk = not is_in_bucket(output)  # in a bucket, its suffix says what it is
        if on_disk and output.is_dir():
            return False
        form = format_of(output)
        if form is None:
            if output.suffix.lower() in {*picture_suffixes(), *FILM_SUFFIXES}:
                raise UserError(
                    f"-o {output}: derain writes {', '.join(FORMATS)}: name such a file or a folder"
                )
            # Another part of the same job may have made it since.
            if on_disk and output.exists() and not output.is_dir():
                raise UserError(f"-o {output}: is a file, not a folder")
            return False
        if naming.ext is not None and FORMATS.get(naming.ext) is not form:
            raise UserError(f"-o {output}: is another format than --ext {naming.ext}: drop --ext")
    if naming.suffix:
        raise UserError(f"--suffix {naming.suffix}: is for results in a folder, not -o {output}")
    return True


def _ext(source: Path, naming: Naming) -> str:
    """The suffix of an image's result, with its dot."""
    from drsformer_jax.data.encoding import format_of
    from drsformer_jax.data.formats.pillow import HEIF_SUFFIXES

    if naming.ext != "auto":
        return f".{naming.ext or DEFAULT_EXT}"
    if source is STANDARD:
        raise UserError("--ext auto: standard input has no suffix to go by: name a format")
    if format_of(source):
        return source.suffix
    return ".jpg" if source.suffix.lower() in HEIF_SUFFIXES else f".{DEFAULT_EXT}"


def _is_file(path: Path) -> bool:
    """Whether there is a file; no name is too long to be asked for, which would stop the others."""
    try:
        return path.is_file()
    except OSError:
        return False


def _missing(jobs: list[Job], pages: bool) -> tuple[list[Job], list[Job]]:
    """The jobs that are not done, with their pages, and the others: what is there is whole.

    An image that is the result of another one, in the folder of both, is no input either.
    """
    done = {
        job
        for job in jobs
        if _is_file(job.destination)
        and identity(job.destination) != identity(job.source)
        and (_is_file(job.page) or not pages)
    }
    if done:
        logger.warning("%d of %d images are there already", len(done), len(jobs))
    results = {identity(job.destination) for job in done}
    left = [job for job in jobs if job not in done and identity(job.source) not in results]
    return left, [job for job in jobs if job in done]
