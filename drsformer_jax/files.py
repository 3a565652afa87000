"""Writing files and folders so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `destination` that replaces it when the block succeeds.

    The temporary file keeps the suffix of the destination, because encoders choose the format by
    it. When the block raises, the temporary file is removed and the destination is as it was.
    """
    destination = Path(destination)
    handle, name = tempfile.mkstemp(
        dir=destination.parent, prefix=f".{destination.stem}.", suffix=destination.suffix
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


def write_json(destination: str | os.PathLike[str], document: Any) -> None:
    """Writes JSON in UTF-8; numbers that JSON does not know are the strings "nan" and "inf".

    OSError if the folder cannot be written.
    """
    text = json.dumps(_finite(document), indent=2, allow_nan=False)
    with atomic_path(destination) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


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
    destination = Path(destination).absolute()
    scratch = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
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
