"""The image pairs that a configuration's `data` part names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drsformer_jax.buckets import any_path, local_copy
from drsformer_jax.data.images import holds_images
from drsformer_jax.data.records import RecordedPairs
from drsformer_jax.data.sources import SPLITS, PairedFolder, PairSource, find_split
from drsformer_jax.data.synthetic.mixed import FOLDERS, MixedRain, MixOptions
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.data.synthetic.rendered import SyntheticRain
from drsformer_jax.errors import UserError, wrong_key
from drsformer_jax.paths import likelier

EMBEDDED = "embedded"
KINDS = ("folder", "records", "synthetic", "mixed")

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
    if kind == "mixed":
        return _mixed(data, seed, patch_size)
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
    if kind in ("folder", "mixed"):
        return PairedFolder(_existing(data, "val"), cache=False)
    if kind == "records":
        return RecordedPairs(_existing(data, "val"), "test")
    photographs = _photographs(data, "val", "test")
    return SyntheticRain(photographs, data["rain_level"], VALIDATION_RAIN_SEED)


def _mixed(data: Mapping[str, Any], seed: int, patch_size: int) -> MixedRain:
    rain = {key: _plain(value) for key, value in data["rain"].items()}
    for kind in rain.keys() & FOLDERS:
        rain[kind] = tuple(_one_existing(folder, f"rain.{kind}") for folder in _several(rain[kind]))
    try:
        options = MixOptions(**rain)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.data.rain: {wrong_key(error)}") from error
    return MixedRain(
        [_one_existing(folder, "train") for folder in _several(data["train"])],
        options,
        seed,
        data["rain_versions"],
        crop=patch_size,
        cache=data["cache"],
    )


def _plain(value: Any) -> Any:
    """Folders and shares without the wrappers of a configuration."""
    return dict(value) if isinstance(value, Mapping) else value


def _kind(data: Mapping[str, Any]) -> str:
    kind = data["kind"]
    if kind not in KINDS:
        raise UserError(f"config.data.kind: must be {', '.join(KINDS)}, not {kind!r}")
    return str(kind)


def _photographs(data: Mapping[str, Any], key: str, split: str) -> Any:
    return embedded_photographs(split) if data[key] == EMBEDDED else _existing(data, key)


def _existing(data: Mapping[str, Any], key: str) -> str:
    return _one_existing(str(data[key]), key, split=data["kind"] != "records")


def _one_existing(typed: str, key: str, *, split: bool = True) -> str:
    """A folder, `typed` as one or the only one of a key; `split`: it must not be a whole set."""
    folder = local_copy(any_path(typed, f"config.data.{key}"))
    if not folder.is_dir():
        raise UserError(
            f"config.data.{key}: no such folder: {folder}{likelier(folder)} "
            f"(--config.data.{key}=FOLDER)"
        )
    if split:
        _check_split(folder, key)
    return str(folder)


def _several(value: Any) -> tuple[str, ...]:
    """The folders of a key that names one or several."""
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, tuple | list) else ()


def named_folders(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of a configuration's `data` part that name folders, and each folder as typed."""
    rain = data.get("rain") or {}
    values = {key: data.get(key) for key in ("train", "val")}
    values |= {f"rain.{kind}": rain.get(kind) for kind in FOLDERS}
    for key, value in values.items():
        yield from ((key, folder) for folder in _several(value))


def _check_split(folder: Path, key: str) -> None:
    """That a folder is not the root of a whole set.

    Raises:
      UserError: it holds neither pairs nor images, but splits.
    """
    if find_split(folder) is not None or holds_images(folder):
        return
    names = SPLITS["test" if key == "val" else "train"]
    name = next((name for name in names if (folder / name).is_dir()), None)
    if name is not None:
        raise UserError(
            f"config.data.{key}: {folder} is a whole set: name its part {name}/ "
            f"(--config.data.{key}={folder / name})"
        )
