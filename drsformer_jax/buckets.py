"""Buckets of Google Cloud Storage: `gs://BUCKET/NAME`, by etils.epath and gcsfs (extra: gcs).

A path in one has the methods of pathlib's (`etils.epath`). There are no folders, no renames and no
appending there: an object appears whole, by one upload, or not at all. A path in a bucket must not
go through `pathlib.Path`, `absolute` or `resolve`, which make `gs:/BUCKET` of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drsformer_jax.errors import UserError, in_one_line, missing_extra
from drsformer_jax.paths import READS, cache_folder, local_path

logger = logging.getLogger(__name__)

PREFIX = "gs://"
FORM = "gs://BUCKET/NAME"
_ADDRESS = re.compile(r"gs://[\w.-]+(/[^/]+)*/?")
_AT_A_TIME = 64  # objects that are fetched together
_WORTH_TELLING = 10.0  # megabytes: they take some time

# What the libraries below say (gcsfs, Google's, aiohttp, TensorStore), what it means, and what
# helps. The first that is found counts.
_ACCOUNT = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
_ROLES = "give this account the roles Storage Object User and Storage Legacy Bucket Reader there"
_REASONS = {
    r"Anonymous|DefaultCredentials|RefreshError|UNAUTHENTICATED|, 401\b|Invalid Credentials": (
        "there are no credentials that the bucket takes",
        _ACCOUNT,
    ),
    r"Forbidden|PERMISSION_DENIED": ("permission denied", _ROLES),
    r"Connect\w*Error|Server\w*Error|Timeout|Client\w*Error|TransportError|DEADLINE_EXCEEDED"
    r"|UNAVAILABLE|CURL|, 5\d\d\b|, 429\b|ProxyError": (
        "the bucket cannot be reached",
        "look at the network, and start again",
    ),
}
_LIBRARIES = ("gcsfs", "aiohttp", "google", "requests", "fsspec")


def is_in_bucket(path: str | os.PathLike[str] | None) -> bool:
    """Whether a path is one of a bucket."""
    return path is not None and os.fspath(path).startswith(PREFIX)


def any_path(text: str, what: str = "") -> Path:
    """The path that the user typed as `text`, on this machine or in a bucket.

    Args:
      what: the flag or key that it is the value of, for the message.

    Raises:
      UserError: as `local_path`; it is no address in a bucket, or gcsfs is not installed.
    """
    if not is_in_bucket(text):
        return local_path(text, what, reads=f"{READS}, and in buckets of Google Cloud ({FORM}),")
    named = f"{what} {text}".strip()
    if not _ADDRESS.fullmatch(text):
        raise UserError(f"{named}: addresses in buckets look like {FORM}")
    if importlib.util.find_spec("gcsfs") is None:
        raise missing_extra("gcsfs", "gcs", named + ":")
    # TensorFlow's way to buckets, where it is installed, is another one.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # It would ask for each bucket's kind by another protocol, and then for its objects as here.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    from etils import epath

    # Other processes write, too: what was listed a moment ago says nothing.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    # All that it tells reaches the caller as an exception.
    for name in ("gcsfs", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    path: Any = epath.Path(text.rstrip("/"))
    return path


def cause(error: BaseException) -> tuple[str, str] | None:
    """Why a bucket could not be used, and what helps; None: the error is about something else."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    told = " ".join(f"{type(link).__name__}: {link}" for link in chain)
    for words, meaning in _REASONS.items():
        if re.search(words, told):
            return meaning
    if any(type(link).__module__.split(".")[0] in _LIBRARIES for link in chain):
        return in_one_line(error), "try it once more"
    return None


@contextlib.contextmanager
def reached(place: str | os.PathLike[str]) -> Iterator[None]:
    """What keeps us from a place in a bucket becomes a UserError; of other places nothing does.

    Raises:
      UserError: names the place, and what helps.
    """
    try:
        yield
    except Exception as error:
        if not is_in_bucket(place) or isinstance(error, UserError | FileExistsError):
            raise
        # The system's own have a number.
        if isinstance(error, FileNotFoundError) and error.errno is None:
            raise UserError(f"{place}: there is no such bucket, or no such object in it") from error
        if (known := cause(error)) is None:
            raise
        raise UserError(f"{place}: {known[0]}: {known[1]}") from error


def local_copy(path: Path) -> Path:
    """The path itself, or of one in a bucket a copy in the user's cache folder.

    Raises:
      UserError: there is nothing in the bucket, it cannot be read, or not be kept.
    """
    if not is_in_bucket(path):
        return path
    found = fetch(path, cache_folder() / "buckets" / str(path).removeprefix(PREFIX))
    if found is None:
        raise UserError(f"{path}: there is nothing under this address")
    return found


def filesystem() -> Any:
    """gcsfs, as it is used here; `any_path` must have been asked for a path."""
    import fsspec

    return fsspec.filesystem("gs")


def upload(file: Path, destination: str | os.PathLike[str]) -> None:
    """Writes an object with the content of a file; it appears whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    with reached(destination):
        filesystem().put_file(str(file), os.fspath(destination))


def remove(path: Path) -> None:
    """Removes an object.

    Raises:
      UserError: it stays, or was not there.
    """
    with reached(path):
        filesystem().rm_file(str(path))


def check_writable(folder: Path) -> None:
    """Finds before the work that nothing can be written there.

    Raises:
      UserError: why.
    """
    probe = str(folder / f".drsformer.{os.urandom(8).hex()}")
    with reached(folder):
        filesystem().pipe_file(probe, b"")
        filesystem().rm_file(probe)


def objects_below(path: Path) -> dict[str, dict[str, Any]]:
    """Of an object, or of all those below a folder: what is known, by the names behind the path.

    An object itself has the name ""; those that stand for folders are left out.

    Raises:
      UserError: the bucket cannot be listed.
    """
    with reached(path):
        found = filesystem().find(str(path), detail=True)
    own = str(path).removeprefix(PREFIX)
    names = {name.removeprefix(own).removeprefix("/"): told for name, told in found.items()}
    return {name: told for name, told in names.items() if not name.endswith("/")}


def remove_below(folder: Path) -> None:
    """Removes all objects below a folder.

    Raises:
      UserError: they cannot be listed, or stay.
    """
    for name in objects_below(folder):
        remove(folder / name)


def fetch(
    path: Path, folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> Path | None:
    """Makes a folder of this machine hold what a bucket does: an object, or all below a path.

    What is there already, of the same size and time, is not fetched again; what is not wanted or
    gone from the bucket is removed. Several processes may do so at once. Objects whose names would
    lead out of the folder are left out.

    Args:
      folder: where to put it; of an object, its file lies there under its name.
      wanted: which of the names behind the path.

    Returns:
      The file or the folder; None: nothing is under that address.

    Raises:
      UserError: it cannot be read, or the disk does not take it.
    """
    objects = objects_below(path)
    is_object = list(objects) == [""]
    files = {
        folder / (name or path.name): told
        for name, told in objects.items()
        if wanted(name) and ".." not in name.split("/")
    }
    try:
        for file in [file for file in folder.rglob("*") if file.is_file()]:
            if file not in files:
                file.unlink(missing_ok=True)
        missing = [file for file, told in files.items() if not _is_same(file, told)]
        size = sum(files[file]["size"] for file in missing) / 1e6
        if size >= _WORTH_TELLING:
            logger.warning(
                "%s: fetching %d files, %.1f MB, to %s", path, len(missing), size, folder
            )
        for start in range(0, len(missing), _AT_A_TIME):
            some = missing[start : start + _AT_A_TIME]
            _fetch({file: files[file] for file in some}, path, folder)
    except OSError as error:
        place = error.filename or folder
        raise UserError(f"{path}: cannot be kept in {place} ({error.strerror})") from error
    if not files:
        return None
    return folder / path.name if is_object else folder


def _is_same(file: Path, told: dict[str, Any]) -> bool:
    try:
        status = file.stat()
    except OSError:
        return False
    return status.st_size == told["size"] and status.st_mtime == told["mtime"].timestamp()


def _fetch(files: dict[Path, dict[str, Any]], path: Path, folder: Path) -> None:
    """Puts objects in their files, each whole or not at all."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".drsformer.") as scratch:
        parts = [Path(scratch, str(number)) for number in range(len(files))]
        with reached(path):
            filesystem().get([told["name"] for told in files.values()], list(map(str, parts)))
        for part, (file, told) in zip(parts, files.items(), strict=True):
            moment = told["mtime"].timestamp()
            os.utime(part, (moment, moment))
            os.replace(part, file)
