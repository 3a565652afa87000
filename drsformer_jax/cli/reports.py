"""Files that a subcommand writes beside what it prints."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from drsformer_jax.buckets import check_writable, is_in_bucket
from drsformer_jax.errors import UserError
from drsformer_jax.paths import files_below, is_one_of, is_stream, why_impossible


def check_destination(flag: str, path: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Finds before the work what would make writing fail after it, or destroy what is read.

    Args:
      inputs: the files that the command reads, and folders of which it reads any file.

    Raises:
      UserError: `path`, the value of `flag`, is a folder or a device, lies in no folder that can
        be written, or is one of the inputs or a file below one; or its bucket cannot be written.
    """
    if path is None:
        return
    if is_in_bucket(path):
        check_writable(path.parent)
        return
    if why := why_impossible(path):  # of a name that we made
        raise UserError(f"{flag} {path}: cannot be written ({why}): give another name")
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder, give a file name")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}, make it first")
    if is_stream(path):
        raise UserError(
            f"{flag} {path}: is a device, a pipe or what is printed to: give the name of a file"
        )
    # By its path: to look for it in a folder could mean to walk a whole disk.
    read = list(inputs) if path.exists() else []
    if is_one_of(path, read) or any(path.resolve().is_relative_to(file.resolve()) for file in read):
        raise UserError(f"{flag} {path}: would overwrite an input: give another name")
    try:
        # Permissions alone do not tell: a file system can be read-only, or no place for files.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written ({error.strerror})") from error


def weights_read(weights: Path | str) -> list[Path]:
    """What is read of weights, as inputs of `check_destination`: of a workdir, its checkpoints."""
    from drsformer_jax.checkpoints.runs import DIRECTORY

    if isinstance(weights, str):  # on the hub
        return []
    checkpoints = weights / DIRECTORY
    return [checkpoints if os.path.isdir(checkpoints) else weights]


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
