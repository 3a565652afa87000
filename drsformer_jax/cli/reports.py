"""Files that a subcommand writes beside what it prints."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from drsformer_jax.errors import UserError


def check_destination(flag: str, path: Path | None) -> None:
    """Finds before the work what would make writing fail after it.

    Raises:
      UserError: `path`, the value of `flag`, is a folder or lies in none that can be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder, give a file name")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}, make it first")
    try:
        # Permissions alone do not tell: a file system can be read-only, or no place for files.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written ({error.strerror})") from error


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
