"""Paths that the user names: what they stand for, and what they are, whatever they are called."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from drsformer_jax.errors import UserError, did_you_mean

_PROBE = ".drsformer."

# With a single slash, too, which is what is left of an address that went through pathlib.
_ADDRESS = re.compile(r"(?s).*://|[A-Za-z][A-Za-z0-9+.-]*:[/\\]|\\\\")

# A device and a number on it: what a file is, whatever it is called.
Identity = tuple[int, int]


# What of an address is read and written, in words; more where `buckets.any_path` is asked.
READS = "only files and folders of this machine"


def local_path(text: str, what: str = "", reads: str = READS) -> Path:
    """The path that the user typed as `text`, with ~ for the home folder.

    Args:
      what: the flag or key that it is the value of, for the message.
      reads: what could have been named, for the message.

    Raises:
      UserError: it is empty, an address, another system's path, the home of nobody, or no path
        that this system can have or lets us see.
    """
    named = f"{what} {text}".strip()
    if not text:
        raise UserError(f"{named}: is empty" if named else "a path is empty (this folder is .)")
    if _ADDRESS.match(text) and not os.path.lexists(text):
        raise UserError(
            f"{named}: is an address; {reads} are read and written: copy or mount it, and give its "
            "path here"
        )
    path = Path(os.path.expanduser(text))
    if text.startswith("~") and str(path).startswith("~") and not os.path.lexists(path):
        raise UserError(
            f"{named}: there is no user {path.parts[0][1:]!r} here; if the name begins so, type "
            f"./{text}"
        )
    if why := why_impossible(path):
        raise UserError(f"{named}: {why}")
    return path


def why_impossible(path: Path) -> str | None:
    """Why the system can have nothing at a path; None: it can.

    A name may be too long, or links lead in a circle, of which `Path.resolve` makes a RuntimeError.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    return None


def cache_folder() -> Path:
    """The user's, as the XDG base directory specification has it: a relative path does not count.

    RuntimeError if the user has no home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "drsformer_jax"


def nothing_at(path: Path, what: str = "file or folder", known: Iterable[str] = ()) -> UserError:
    """The error for a path that leads nowhere; arguments as for `likelier`."""
    return UserError(f"{path}: no such {what}{likelier(path, known)}")


def likelier(path: Path, known: Iterable[str] = ()) -> str:
    """What to add to a message about a path that leads nowhere: a name like it beside it, if any.

    Of a link, where it leads.

    Args:
      known: names that would have been understood as well.
    """
    if path.is_symlink() and not path.exists():
        return f" (a link to {os.readlink(path)}, which is not there)"
    try:
        names = os.listdir(path.parent)
        # Itself it is where it is of the wrong kind: a file, not a folder.
        beside = [str(path.parent / name) for name in names if name != path.name]
    except OSError:
        beside = []
    return did_you_mean(str(path), [*known, *beside])


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """What tells a file or folder from all others, links followed; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_stream(path: Path) -> bool:
    """Whether at a path there is a device or a pipe, or what this program prints to.

    Such is written to by its name, as /dev/stdout is, and not replaced by a file.
    """
    if (own := identity(path)) is None or path.is_dir():
        return False
    printed = set()
    for stream in (1, 2):
        with contextlib.suppress(OSError):  # closed
            status = os.fstat(stream)
            printed.add((status.st_dev, status.st_ino))
    return own in printed or not path.is_file()


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


def require_readable(folder: Path, files: Iterable[str] | None = None) -> None:
    """That no file in a folder, or in those below it, is kept from us.

    Libraries that read folders call files damaged which merely may not be read.

    Args:
      files: those to look at, if they are there; None: all, which of a folder that may be any can
        be a whole disk.

    Raises:
      UserError: one may not be read.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    if files is None:
        walked = os.walk(folder, onerror=refuse)
        paths = (os.path.join(root, name) for root, _, names in walked for name in names)
    else:
        paths = (os.path.join(folder, name) for name in files)
    try:
        for path in paths:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError as error:
                refuse(error)
    except PermissionError as error:
        raise UserError(
            f"{error.filename}: may not be read (permission denied): make {folder} and all in it "
            "readable"
        ) from error
