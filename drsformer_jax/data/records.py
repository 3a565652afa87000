"""Pairs from ArrayRecord files, as `drsformer data build` writes them. Needs no TensorFlow."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drsformer_jax.data.formats.pillow import without_pillows_limit
from drsformer_jax.data.sources import Cache, Pair
from drsformer_jax.errors import UserError, in_one_line
from drsformer_jax.paths import require_text

# Of the same set in two forms, the one that is faster to read.
_FORMS = ("raw", "encoded")
_INFO = "dataset_info.json"


class RecordedPairs:
    """The pairs of one split of a data set that was built.

    Args:
        root: folder of the set (OUT/NAME), of one of its forms or of a version.
        split: "train" or "test".
        cache: keep decoded images in memory, as many as fit.

    Raises UserError if there is no such set or split, and when a damaged pair is read.
    """

    def __init__(self, root: str | os.PathLike[str], split: str, *, cache: bool = False) -> None:
        import tensorflow_datasets as tfds

        self.root = _version(Path(root))
        require_text(self.root)
        self.split = split
        try:
            builder = tfds.builder_from_directory(self.root)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.root}: no readable data set ({reason})") from error
        if split not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise UserError(f"{self.root}: has no split {split!r}, only {known}")
        encoded = isinstance(builder.info.features["input"], tfds.features.Image)
        skip = tfds.decode.SkipDecoding()
        # Pillow decodes everywhere else, too: another decoder would give other pixels of a JPEG.
        decoders = {"input": skip, "target": skip} if encoded else None
        self._records = builder.as_data_source(split=split, decoders=decoders)
        self._decode: Any = _decoded if encoded else np.asarray
        self._pair = Cache(self._read, lambda pair: 2 * pair["input"].nbytes, keep=cache)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Pair:
        return self._pair(index)

    def __repr__(self) -> str:
        return f"RecordedPairs({str(self.root)!r}, {self.split!r}, {len(self)} pairs)"

    def _read(self, index: int) -> Pair:
        try:
            record = self._records[index]
            input, target = self._decode(record["input"]), self._decode(record["target"])
            name = record["name"].decode()
            # What is restored of it is written under this name, in one folder.
            if not name or Path(name).name != name:
                raise ValueError(f"{name!r} is no name of a file")
        except MemoryError:
            raise
        except Exception as error:  # of ArrayRecord, TFDS and Pillow
            raise UserError(
                f"{self.root}: pair {index} of {self.split} cannot be read ({in_one_line(error)}): "
                "remove the folder and build the set anew, or copy it again"
            ) from error
        input.setflags(write=False)
        target.setflags(write=False)
        return {"input": input, "target": target, "name": name}


def _decoded(data: bytes) -> np.ndarray:
    with without_pillows_limit(), Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def is_recorded(folder: Path) -> bool:
    """Whether a data set was built here."""
    return bool(_versions(folder))


def _version(root: Path) -> Path:
    """The folder of the newest version in `root`."""
    found = _versions(root)
    if not found:
        raise UserError(f"{root}: no data set was built here (drsformer data build makes one)")
    return found[0]


def _versions(root: Path) -> list[Path]:
    """Folders of versions in `root`, best first: by form, then the newest."""
    for pattern in (_INFO, f"*/{_INFO}", *(f"{form}/*/{_INFO}" for form in _FORMS)):
        found = sorted(path.parent for path in root.glob(pattern))
        if found:
            return found[::-1]
    return []
