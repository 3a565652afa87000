"""The splits of a data set, as sources of pairs: two folders, halves of images, or records."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from drsformer_jax.data.images import read_rgb, require_images
from drsformer_jax.data.records import RecordedPairs, is_recorded
from drsformer_jax.data.sets import DataSet
from drsformer_jax.data.sources import (
    INPUTS,
    SPLITS,
    TARGETS,
    Pair,
    PairedFolder,
    PairSource,
    Split,
    find_split,
    image_cache,
    raise_problems,
    undecodable,
)
from drsformer_jax.errors import UserError

# A folder that is a split itself.
WHOLE = "all"


def find_splits(root: Path, *, halves: bool = False) -> dict[str, Split]:
    """A data set's splits by name: "train", "test"; "all" for a folder that is one itself.

    Raises:
      UserError: the folder is not there or holds no such folders.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            here = find_split(root / name, halves=halves)
            if here is not None:
                found[split] = here
                break
    whole = find_split(root, halves=halves)
    if not found and whole is not None:
        return {WHOLE: whole}
    if not found:
        sides = "images" if halves else f"{INPUTS[0]}/ and {TARGETS[0]}/"
        raise UserError(
            f"{root}: holds no train/ or test/ with {sides} (known names of splits: "
            f"{_named(SPLITS['train'] + SPLITS['test'])}; of sides: {_named(INPUTS)} and "
            f"{_named(TARGETS)})"
        )
    return found


def _named(names: tuple[str, ...]) -> str:
    """Each name once, whatever its letters' case."""
    return ", ".join(dict.fromkeys(name.lower() for name in names))


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


class HalvedImages:
    """Pairs of which one file holds both: the clean image at the left, the rainy one at the right.

    So Rain800 is distributed.

    Args:
        root: the folder of the files.
        verify: decode every file at once.
        cache: keep decoded images in memory, as many as fit into CACHE_LIMIT_BYTES.

    Raises UserError that names every file in question; those of odd width among them.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, verify: bool = True, cache: bool = False
    ) -> None:
        self.root = Path(root)
        self._decode = image_cache(cache)
        self._paths = require_images(self.root)
        self.names = [path.stem for path in self._paths]
        problems = names_used_twice(self._paths)
        if verify:
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                halved = functools.partial(self.of_file, decode=self._decode)
                problems += undecodable(self._paths, halved, pool)
        raise_problems(self.root, problems)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        return self.of_file(self._paths[index], self._decode)

    def __repr__(self) -> str:
        return f"HalvedImages({str(self.root)!r}, {len(self)} pairs)"

    def files(self, index: int) -> tuple[Path, ...]:
        """What a pair is read from."""
        return (self._paths[index],)

    def problems(self, index: int) -> list[str]:
        """What is wrong with a pair, whose file is decoded."""
        try:
            self[index]
        except UserError as error:
            return [str(error)]
        return []

    @staticmethod
    def of_file(path: Path, decode: Callable[[Path], np.ndarray] = read_rgb) -> Pair:
        """The pair that a file holds; UserError if it cannot be read or halved."""
        both = decode(path)
        if both.shape[1] % 2:
            raise UserError(f"{path}: is {both.shape[1]} pixels wide: no two halves")
        middle = both.shape[1] // 2
        return {"input": both[:, middle:], "target": both[:, :middle], "name": path.stem}


def open_split(split: Split, *, verify: bool) -> PairedFolder | HalvedImages:
    """The pairs of a folder; UserError names all files that are not as they must be."""
    if split.input_dir is None:
        return HalvedImages(split.root, verify=verify)
    return PairedFolder(split.root, split.input_dir, split.target_dir, verify=verify)


def names_used_twice(paths: Sequence[Path]) -> list[str]:
    """Those of `paths` whose name, without suffix, one before them has; as problems."""
    first: dict[str, Path] = {}
    return [
        f"{path}: {first[path.stem].name} has the same name without suffix"
        for path in paths
        if first.setdefault(path.stem, path) is not path
    ]
