"""Writing files and folders so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from drsformer_jax.buckets import is_in_bucket, remove_below, upload
from drsformer_jax.paths import is_stream, printable

# Temporary names are as short as this allows, whatever they stand for: a name may have 255 bytes.
TEMPORARY = ".drsformer."
_LONGEST_SUFFIX = 16
# Who writes: see `written_by`.
_writer = ""


@contextlib.contextmanager
def written_by(name: str) -> Iterator[None]:
    """Around work that may be killed, or lose its machine, and is then carried on.

    What `atomic_path` writes in it is on the disk before it gets its name, and the names of its
    temporary files say whose they are, for `remove_temporaries`.
    """
    global _writer
    before, _writer = _writer, f"{name}."
    try:
        yield
    finally:
        _writer = before


def remove_temporaries(folder: Path, name: str) -> None:
    """Removes what a killed writer of that name was writing in a folder."""
    for path in folder.glob(f"{TEMPORARY}{name}.*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `destination` that replaces it when the block succeeds.

    The temporary file keeps the suffix of the destination, because encoders choose the format by
    it. When the block raises, the temporary file is removed and the destination is as it was. Of a
    destination in a bucket it lies on this machine, and becomes an object by one upload.

    Raises:
      UserError: the bucket does not take it.
      OSError: the folder cannot be written, or `destination` is no file but a device or a pipe.
    """
    if is_in_bucket(destination):
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            file = Path(folder, f"new{PurePosixPath(destination).suffix}")
            yield file
            upload(file, destination)
        return
    destination = Path(destination)
    if is_stream(destination):
        raise OSError(errno.EINVAL, "is a device, a pipe or what is printed to", str(destination))
    suffix = destination.suffix
    handle, name = tempfile.mkstemp(
        dir=destination.parent,
        prefix=TEMPORARY + _writer,
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
        if _writer:
            _flush(temporary)
        os.replace(temporary, destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Of what a file holds, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Makes a folder, and those around it; a bucket has none, and needs none.

    OSError if it cannot be made.
    """
    if not is_in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_files(folder: Path, pattern: str) -> None:
    """Removes the files in a folder whose names fit a pattern; of one in a bucket, all in it.

    OSError, or of a bucket UserError, if one stays.
    """
    if is_in_bucket(folder):
        remove_below(folder)
        return
    for file in folder.glob(pattern):
        file.unlink()


def write_whole(destination: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file or an object that appears complete or not at all; errors as `atomic_path`."""
    with atomic_path(destination) as temporary:
        temporary.write_bytes(content)


def write_text(destination: str | os.PathLike[str], text: str) -> None:
    """Writes text in UTF-8, whatever the locale.

    The bytes of file names that are not text in it are written as `\\udcXX`, which JSON reads back
    as the name. Errors as `atomic_path`.
    """
    write_whole(destination, printable(text).encode("utf-8"))


def write_rows(destination: str | os.PathLike[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows as CSV in UTF-8, as `write_text` does."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    write_text(destination, stream.getvalue())


def write_json(
    destination: str | os.PathLike[str], document: Any, *, ensure_ascii: bool = True
) -> None:
    """Writes JSON in UTF-8; numbers that JSON does not know are the strings "nan" and "inf".

    Args:
      ensure_ascii: write letters beyond ASCII as escapes.

    OSError if the folder cannot be written.
    """
    text = json.dumps(_finite(document), indent=2, ensure_ascii=ensure_ascii, allow_nan=False)
    write_text(destination, text + "\n")


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
    scratch = Path(tempfile.mkdtemp(dir=destination.parent, prefix=TEMPORARY))
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
