"""Weights on the Hugging Face hub: fetched by address, pinned to a commit and checked."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from drsformer_jax.buckets import any_path
from drsformer_jax.errors import UserError, in_one_line, missing_extra

PREFIX = "hf://"
FILE = "model.safetensors"
FORM = "hf://ORG/NAME[/FILE.safetensors][@REVISION]"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([\w./-]+\.safetensors))?(?:@([\w./-]+))?")


def is_address(weights: str | os.PathLike[str]) -> bool:
    """Whether weights are named by an address on the hub."""
    return isinstance(weights, str) and weights.startswith(PREFIX)


def weights_argument(text: str, what: str = "") -> Path | str:
    """What the user typed as weights: an address on the hub as it is, else `buckets.any_path`."""
    return text if is_address(text) else any_path(text, what)


def name_of(weights: Path | str) -> str:
    """What to call weights: the last part of a path, an address as it is."""
    return weights.name if isinstance(weights, Path) else weights


def require_hub(purpose: str) -> None:
    """Raises the error that names the extra to install if huggingface_hub is not there."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", purpose) from error


def fetch(address: str) -> tuple[Path, str]:
    """The file that an address names, and the address with the commit that it is of.

    From the hub's cache on this machine, if it is there, and from there alone where HF_HUB_OFFLINE
    is set. The content is compared with the checksum that the hub keeps it by.

    Raises:
      UserError: huggingface_hub is not installed; there is no such repository, revision or file; it
        can neither be fetched nor is it here already; or it is damaged.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UserError(f"{address}: addresses on the hub look like {FORM}")
    require_hub(f"reading {address}")
    from huggingface_hub import errors, hf_hub_download

    repository, file, revision = found[1], found[2] or FILE, found[3]
    try:
        path = Path(hf_hub_download(repository, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{address}: is not on this machine yet, and the hub cannot be reached (or "
            "HF_HUB_OFFLINE keeps it away)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{address}: there is no revision {revision}") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{address}: has no file {file}: name one, as in {FORM}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{address}: there is no such repository, or it is private (`hf auth login`)"
        ) from error
    except Exception as error:  # with those of the library below, which are of many kinds
        raise UserError(f"{address}: cannot be fetched ({in_one_line(error)})") from error
    _check(path, address)
    # .../snapshots/COMMIT/FILE
    commit = path.parents[len(Path(file).parts) - 1].name
    name = repository if file == FILE else f"{repository}/{file}"
    return path, f"{PREFIX}{name}@{commit}"


def _check(path: Path, address: str) -> None:
    """That a file is what the hub's cache has it under: a SHA-256, or a checksum of Git's."""
    content, name = path.read_bytes(), path.resolve().name
    sums = {
        64: lambda: hashlib.sha256(content),
        40: lambda: hashlib.sha1(b"blob %d\0%b" % (len(content), content)),
    }
    if len(name) in sums and sums[len(name)]().hexdigest() != name:
        raise UserError(
            f"{address}: is damaged in the hub's cache ({path.resolve()}): remove this file, and "
            "it is fetched again"
        )
