"""Files that a subcommand writes beside what it prints."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from drsformer_jax.buckets import check_writable, is_in_bucket
from drsformer_jax.errors import UserError
from drsformer_jax.paths import files_below, is_one_of, is_stream


def check_destination(flag: str, path: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Finds before the work what would make writing fail after it, or destroy what is read.

    Args:
      inputs: the files that the command reads.

    Raises:
      UserError: `path`, the value of `flag`, is a folder or a device, lies in no folder that can
        be written, or is one of the inputs; or its bucket cannot be written.
    """
    if path is None:
        return
    if is_in_bucket(path):
        check_writable(path.parent)
        return
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long, where we made it
        raise UserError(
            f"{flag} {path}: cannot be written ({error.strerror}): give another name"
        ) from error
    if is_folder:
        raise UserError(f"{flag} {path}: is a folder, give a file name")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}, make it first")
    if is_stream(path):
        raise UserError(
            f"{flag} {path}: is a device, a pipe or what is printed to: give the name of a file"
        )
    if is_one_of(path, inputs):
        raise UserError(f"{flag} {path}: would overwrite an input: give another name")
    try:
        # Permissions alone do not tell: a file system can be read-only, or no place for files.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written ({error.strerror})") from error


def images_below(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that are among `paths`, and the images anywhere in folders that are."""
    from drsformer_jax.data.formats.pillow import picture_suffixes

    suffixes = picture_suffixes()
    for path in paths:
        if path.is_dir():
            files = files_below(path)
            yield from (file for file in files if file.suffix.lower() in suffixes)
        else:
            yield path


def write_report(flag: str, path: Path | None, write: Callable[[Path], None]) -> None:
    """Writes a report to the value of a flag, if it was given.

    Raises:
      UserError: it cannot be written.
    """
    if path is None:
        return
    try:
        write(path)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written ({error.strerror})") from error
