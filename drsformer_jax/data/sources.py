"""Random-access sources of rainy and clean image pairs.

A source has a length and, for an index in [0, length), a dict with `input` and `target`
(uint8 `H W 3`, the same size) and `name`. The same index always gives the same pair.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Generic, Protocol, TypedDict, TypeVar

import numpy as np

from drsformer_jax.data.images import holds_images, read_rgb, require_images
from drsformer_jax.data.pairing import pair_by_name
from drsformer_jax.errors import UserError, enumerated
from drsformer_jax.paths import nothing_at

# Decoded images are kept in memory up to this many bytes a source: the 200 pairs of Rain100L take
# 0.2 GB, the 12,000 of DID-Data do not fit and the rest of them is decoded anew each time.
CACHE_LIMIT_BYTES = 2 * 1024**3

# Splits and sides by the folder names in use, those of this project first.
SPLITS = {
    "train": ("train", "training", "Train", "Training"),
    "test": ("test", "testing", "val", "Test", "Testing", "test_syn"),
}
INPUTS = ("input", "rainy", "rain/X2", "rain", "rainy_image", "data", "Input", "Rain")
TARGETS = ("target", "norain", "gt", "clean", "ground_truth", "groundtruth", "Target", "GT")

Key = TypeVar("Key")
Value = TypeVar("Value")


class Pair(TypedDict):
    """One rainy image and its clean target, both uint8 `H W 3`."""

    input: np.ndarray
    target: np.ndarray
    name: str


class PairSource(Protocol):
    """What training and evaluation draw pairs from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


class Cache(Generic[Key, Value]):
    """Reads values, keeping them while they fit into CACHE_LIMIT_BYTES.

    Args:
        read: gives the value of a key; called by several threads.
        size: of a value in bytes.
        keep: False: keep none.
    """

    def __init__(
        self, read: Callable[[Key], Value], size: Callable[[Value], int], *, keep: bool
    ) -> None:
        self._read, self._size = read, size
        self._values: dict[Key, Value] = {}
        self._room = CACHE_LIMIT_BYTES if keep else 0
        self._lock = threading.Lock()

    def __call__(self, key: Key) -> Value:
        value = self._values.get(key)
        if value is None:
            value = self._read(key)
            with self._lock:
                size = self._size(value)
                if key not in self._values and size <= self._room:
                    self._values[key] = value
                    self._room -= size
        return value


def image_cache(keep: bool) -> Cache[Path, np.ndarray]:
    """Decodes image files as uint8 `H W 3`. They are handed out again: nobody may write to them."""

    def read(path: Path) -> np.ndarray:
        image = read_rgb(path)
        image.setflags(write=False)
        return image

    return Cache(read, lambda image: image.nbytes, keep=keep)


@dataclass(frozen=True)
class Split:
    """One folder of pairs.

    Attributes:
      root: the folder.
      input_dir, target_dir: in it; both None where one file holds both sides of a pair.
    """

    root: Path
    input_dir: str | None
    target_dir: str | None


def find_split(root: Path, *, halves: bool = False) -> Split | None:
    """The two sides of a folder of pairs; None if it holds none.

    Args:
      halves: the clean image is the left half of each file in `root`, the rainy one the right.
    """
    if halves:
        return Split(root, None, None) if holds_images(root) else None
    inputs = next((name for name in INPUTS if (root / name).is_dir()), None)
    targets = next((name for name in TARGETS if (root / name).is_dir()), None)
    return Split(root, inputs, targets) if inputs and targets else None


class PairedFolder:
    """Pairs from two folders: rainy images in the one, clean images in the other.

    Files pair by name, in any of the schemes of `data.pairing`; the suffix does not count, so that
    a JPEG may be the rainy side of a PNG. Several rainy images may share a clean one.

    Args:
        root: the folder that holds both.
        input_dir, target_dir: in it; by default `input` and `target`, or what others call them
            (INPUTS, TARGETS).
        verify: check every file at once (see `verify`). Without, only the pairing is checked.
        cache: keep decoded images in memory, as many as fit into CACHE_LIMIT_BYTES.

    Raises UserError that names every file in question.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        input_dir: str | None = None,
        target_dir: str | None = None,
        *,
        verify: bool = True,
        cache: bool = False,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise nothing_at(self.root, "folder")
        known = find_split(self.root)
        input_dir = input_dir or (known and known.input_dir) or INPUTS[0]
        target_dir = target_dir or (known and known.target_dir) or TARGETS[0]
        self._decode = image_cache(cache)
        pairing = pair_by_name(
            require_images(self.root / input_dir), require_images(self.root / target_dir)
        )
        self.paths = [(pair.input, pair.target) for pair in pairing.pairs]
        self.names = [pair.name for pair in pairing.pairs]
        self._orphans = [*pairing.lone_inputs, *pairing.lone_targets]
        self._pairing_problems = [
            *pairing.ambiguous,
            *(f"{path}: no partner in {target_dir}/" for path in pairing.lone_inputs),
            *(f"{path}: no partner in {input_dir}/" for path in pairing.lone_targets),
        ]
        if verify:
            self.verify()
        else:
            raise_problems(self.root, self._pairing_problems)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        input_path, target_path = self.paths[index]
        return {
            "input": self._decode(input_path),
            "target": self._decode(target_path),
            "name": self.names[index],
        }

    def __repr__(self) -> str:
        return f"PairedFolder({str(self.root)!r}, {len(self)} pairs)"

    def files(self, index: int) -> tuple[Path, ...]:
        """What a pair is read from."""
        return self.paths[index]

    def problems(self, index: int) -> list[str]:
        """What is wrong with a pair, whose files are decoded."""
        return self._check_pair(self.paths[index])

    def verify(self) -> None:
        """Decodes every file completely and compares the sizes of each pair.

        Raises one UserError that names all corrupt files, all files without a partner and all
        pairs of different size.
        """
        # Decoding releases the interpreter's lock, so threads do help.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            pair_problems = pool.map(self._check_pair, self.paths)
            problems = [
                *self._pairing_problems,
                *chain.from_iterable(pair_problems),
                *undecodable(self._orphans, self._decode, pool),
            ]
        raise_problems(self.root, problems)

    def _check_pair(self, paths: tuple[Path, Path]) -> list[str]:
        sizes = []
        problems = []
        for path in paths:
            try:
                height, width = self._decode(path).shape[:2]
                sizes.append(f"{width}x{height}")
            except UserError as error:
                problems.append(str(error))
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            problems.append(f"{paths[0]} is {sizes[0]} but {paths[1]} is {sizes[1]}")
        return problems


def checked_images(folder: Path, decode: Callable[[Path], object]) -> list[Path]:
    """The image files of a folder, each of them decoded once; UserError that names the bad ones."""
    paths = require_images(folder)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        raise_problems(folder, undecodable(paths, decode, pool))
    return paths


def undecodable(
    paths: list[Path], decode: Callable[[Path], object], pool: ThreadPoolExecutor
) -> list[str]:
    """What is wrong with those of `paths` that cannot be decoded, in their order."""

    def problem(path: Path) -> str | None:
        try:
            decode(path)
        except UserError as error:
            return str(error)
        return None

    return [found for found in pool.map(problem, paths) if found is not None]


def raise_problems(folder: Path, problems: list[str]) -> None:
    """Raises one UserError for all `problems`, if there are any."""
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise UserError(f"{count} with the images in {folder}: {enumerated(problems)}")
