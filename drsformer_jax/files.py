"""Paths that the user names, and writing so that nobody ever sees half of a file or folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drsformer_jax.errors import UserError

# Temporary names are as short as this allows, whatever they stand for: a name may have 255 bytes.
_TEMPORARY = ".drsformer."
_LONGEST_SUFFIX = 16

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
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_TEMPORARY) as probe:
        return Path(folder, Path(probe.name).name.upper()).exists()


@contextlib.contextmanager
def atomic_path(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `destination` that replaces it when the block succeeds.

    The temporary file keeps the suffix of the destination, because encoders choose the format by
    it. When the block raises, the temporary file is removed and the destination is as it was.
    """
    destination = Path(destination)
    suffix = destination.suffix
    handle, name = tempfile.mkstemp(
        dir=destination.parent,
        prefix=_TEMPORARY,
        suffix=suffix if len(os.fsencode(suffix)) <= _LONGEST_SUFFIX else "",
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the permissions of an ordinary new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def write_text(destination: str | os.PathLike[str], text: str) -> None:
    """Writes text in UTF-8, whatever the locale.

    The bytes of file names that are not text in it are written as `\\udcXX`, which JSON reads back
    as the name. OSError if the folder cannot be written.
    """
    with atomic_path(destination) as temporary:
        temporary.write_bytes(printable(text).encode("utf-8"))


def write_rows(destination: str | os.PathLike[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows as CSV in UTF-8, as `write_text` does."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    write_text(destination, stream.getvalue())


def write_json(destination: str | os.PathLike[str], document: Any) -> None:
    """Writes JSON in UTF-8; numbers that JSON does not know are the strings "nan" and "inf".

    OSError if the folder cannot be written.
    """
    write_text(destination, json.dumps(_finite(document), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def atomic_folder(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `destination` when the block succeeds.

    A folder that is there is put aside for the moment of the change, and removed after it. When the
    block raises, the destination is as it was.
    """
    # A link to a folder stands for that folder, which may lie on another disk.
    destination = Path(destination).resolve()
    scratch = Path(tempfile.mkdtemp(dir=destination.parent, prefix=_TEMPORARY))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        if destination.exists():
            os.rename(destination, old)
        try:
            os.rename(new, destination)
        except OSError:
            if old.exists():
                os.rename(old, destination)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
