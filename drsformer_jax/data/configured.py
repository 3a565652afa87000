"""The image pairs that a configuration's `data` part names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drsformer_jax.data.images import list_images
from drsformer_jax.data.layout import SPLITS, find_split, find_splits
from drsformer_jax.data.photographs import embedded_photographs
from drsformer_jax.data.records import RecordedPairs, is_recorded
from drsformer_jax.data.sets import DataSet
from drsformer_jax.data.sources import PairedFolder, PairSource, open_split
from drsformer_jax.data.synthetic import SyntheticRain
from drsformer_jax.errors import UserError
from drsformer_jax.paths import local_path

EMBEDDED = "embedded"
KINDS = ("folder", "records", "synthetic")

# Rain over validation photographs does not depend on the seed of the training run, so that the
# scores of runs compare.
VALIDATION_RAIN_SEED = 1_000_003


def training_source(data: Mapping[str, Any], seed: int, patch_size: int) -> PairSource:
    """The training pairs; every file is checked.

    Args:
      data: keys as in configs/base.py.
      seed: of synthetic rain.
      patch_size: the largest patches that will be asked for, in pixels.

    Raises:
      UserError: an unknown kind of data; missing folders; broken or mismatched files, all named.
    """
    kind = _kind(data)
    if kind == "folder":
        return PairedFolder(_existing(data, "train"), cache=data["cache"])
    if kind == "records":
        return RecordedPairs(_existing(data, "train"), "train", cache=data["cache"])
    return SyntheticRain(
        _photographs(data, "train", "train"),
        data["rain_level"],
        seed,
        data["rain_versions"],
        crop=patch_size,
        cache=data["cache"],
    )


def validation_source(data: Mapping[str, Any]) -> PairSource:
    """The validation pairs, whole images; arguments and errors as for `training_source`."""
    kind = _kind(data)
    if kind == "folder":
        return PairedFolder(_existing(data, "val"), cache=False)
    if kind == "records":
        return RecordedPairs(_existing(data, "val"), "test")
    photographs = _photographs(data, "val", "test")
    return SyntheticRain(photographs, data["rain_level"], VALIDATION_RAIN_SEED)


def split_for_test(folder: Path, data_set: DataSet | None) -> PairSource:
    """The test pairs of a data set: a folder of pairs, or with test/, or a set that was built.

    Raises:
      UserError: there are none; broken or mismatched files, all named.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if is_recorded(folder):
        return RecordedPairs(folder, "test")
    splits = find_splits(folder, halves=data_set is not None and data_set.halves)
    split = splits.get("test", splits.get("all"))
    if split is None:
        raise UserError(f"{folder}: holds no test split, only {', '.join(splits)}")
    return open_split(split, verify=True)


def _kind(data: Mapping[str, Any]) -> str:
    kind = data["kind"]
    if kind not in KINDS:
        raise UserError(f"config.data.kind: must be {', '.join(KINDS)}, not {kind!r}")
    return str(kind)


def _photographs(data: Mapping[str, Any], key: str, split: str) -> Any:
    return embedded_photographs(split) if data[key] == EMBEDDED else _existing(data, key)


def _existing(data: Mapping[str, Any], key: str) -> str:
    folder = local_path(str(data[key]), f"config.data.{key}")
    if not folder.is_dir():
        raise UserError(f"config.data.{key}: no such folder: {folder} (--config.data.{key}=FOLDER)")
    if data["kind"] != "records":
        _check_split(folder, key)
    return str(folder)


def _check_split(folder: Path, key: str) -> None:
    """That a folder is not the root of a whole set.

    Raises:
      UserError: it holds neither pairs nor images, but splits.
    """
    if find_split(folder) is not None or list_images(folder):
        return
    names = SPLITS["train" if key == "train" else "test"]
    name = next((name for name in names if (folder / name).is_dir()), None)
    if name is not None:
        raise UserError(
            f"config.data.{key}: {folder} is a whole set: name its part {name}/ "
            f"(--config.data.{key}={folder / name})"
        )
