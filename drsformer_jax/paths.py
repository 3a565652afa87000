"""Paths that the user names: what they stand for, and what they are, whatever they are called."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from drsformer_jax.errors import UserError

_PROBE = ".drsformer."

# A device and a number on it: what a file is, whatever it is called.
Identity = tuple[int, int]


def local_path(text: str, what: str = "") -> Path:
    """The path that the user typed as `text`, with ~ for the home folder.

    Args:
      what: the flag or key that it is the value of, for the message.

    Raises:
      UserError: it is an address, or no path that this system can have or lets us see.
    """
    named = f"{what} {text}".strip()
    if "://" in text:
        raise UserError(
            f"{named}: is an address; only files and folders of this machine are read and written: "
            "copy or mount it, and give its path here"
        )
    path = Path(os.path.expanduser(text))
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"{named}: {error.strerror}") from error
    return path


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """What tells a file or folder from all others, links followed; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_one_of(path: Path, files: Iterable[Path]) -> bool:
    """Whether a path is one of `files` under any name: through links, or as a hard link."""
    own = identity(path)
    return own is not None and any(identity(file) == own for file in files)


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and in those below it, links to folders followed."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = identity(root)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        yield from (Path(root, name) for name in names)


def ignores_case(folder: Path) -> bool:
    """Whether names in an existing folder that differ in their letters' case are one file.

    OSError if the folder cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_PROBE) as probe:
        return Path(folder, Path(probe.name).name.upper()).exists()


def printable(name: str) -> str:
    """A file name as text that every encoding of Unicode has: bytes that are no text escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def require_text(folder: Path) -> None:
    """That the libraries which keep checkpoints and records can open files in a folder.

    Raises:
      UserError: its name, or that of a folder around it, has bytes that are no text.
    """
    name = str(folder.absolute())
    if printable(name) != name:
        raise UserError(
            f"{folder}: checkpoints and data sets need a folder whose name is UTF-8, and so the "
            "folders around it: give it another name"
        )
