"""Why a checkpoint could not be written, out of what Orbax, TensorStore and the system say."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drsformer_jax.buckets import cause, is_in_bucket
from drsformer_jax.errors import UserError, in_one_line

# So Orbax and TensorStore say that what they have just written is not there.
_NOT_THERE = ("NOT_FOUND", "params are missing")
# So many bytes are written to see whether a drive takes them.
_TRIAL_BYTES = 2**20

# What the system may have against writing, and what helps; TensorStore's messages hold these words.
_ROOM = "make room there"
_RIGHTS = "make it writable"
_VANISHED = (
    "the folder, or files in it, vanished while they were written: look what else removes or "
    "writes files there"
)
_DRIVE = "see to the drive"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOENT: _VANISHED,
    errno.ENOTEMPTY: _VANISHED,
    errno.ENOTDIR: "there is a file where a folder should be: move it away",
    errno.EIO: _DRIVE,
    errno.ESTALE: _DRIVE,
}


def cause_of_failure(error: BaseException, directory: Path) -> tuple[str, str]:
    """Why a checkpoint could not be written, and what helps.

    Where no error of the system is told, the drive is asked whether it still takes a file.
    """
    if is_in_bucket(directory):
        return cause(error) or (in_one_line(error), "try it once more")
    if known := system_error(error):
        return known
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_TRIAL_BYTES))
    except OSError as refusal:
        return system_error(refusal) or (str(refusal), _DRIVE)
    text = " ".join(str(error).split())
    if any(words in text for words in _NOT_THERE):
        return "what was written is not there", _VANISHED
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return told if len(told) < 200 else f"{told[:200]}...", "try it once more"


@contextlib.contextmanager
def written_or_refused(place: object) -> Iterator[None]:
    """What the system refuses a library that writes becomes a UserError; all else stays.

    Raises:
      UserError: the place cannot be written; names the system's reason.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        known = system_error(error)
        if known is None and isinstance(error, OSError):
            known = str(error.strerror or error), ""
        if known is None:
            raise
        raise UserError(f"{place} cannot be written: {known[0]}") from error


def system_error(error: BaseException) -> tuple[str, str] | None:
    """The system's words for what led to an error, and what helps; None if there are none.

    They are looked for in all exceptions that led to this one, also in their text: TensorStore,
    safetensors and PyTorch have no errno.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for number, remedy in _REMEDIES.items():
        words = os.strerror(number)
        if any(
            (isinstance(link, OSError) and link.errno == number) or words in str(link)
            for link in chain
        ):
            return words, remedy
    return None
