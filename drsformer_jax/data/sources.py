"""Random-access sources of rainy and clean image pairs.

A source has a length and, for an index in [0, length), a dict with `input` and `target`
(uint8 `H W 3`, the same size) and `name`. The same index always gives the same pair.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np

from drsformer_jax.data.images import list_images, read_rgb
from drsformer_jax.data.rain import LEVELS, add_rain, sample_rain
from drsformer_jax.errors import UserError

# Decoded images are kept in memory up to this many bytes a source: the 200 pairs of Rain100L take
# 0.2 GB, the 12,000 of DID-Data do not fit and the rest of them is decoded anew each time.
CACHE_LIMIT_BYTES = 2 * 1024**3

# So many problems are named in one error message; of the others, their number.
MAX_PROBLEMS_NAMED = 20


class Pair(TypedDict):
    """One rainy image and its clean target, both uint8 `H W 3`."""

    input: np.ndarray
    target: np.ndarray
    name: str


class PairSource(Protocol):
    """What training and evaluation draw pairs from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


class _Decoder:
    """Reads images, keeping the decoded ones while they fit."""

    def __init__(self, cache: bool) -> None:
        self._images: dict[Path, np.ndarray] = {}
        self._room = CACHE_LIMIT_BYTES if cache else 0
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> np.ndarray:
        image = self._images.get(path)
        if image is None:
            image = read_rgb(path)
            # Handed out more than once: nobody may write into it.
            image.setflags(write=False)
            with self._lock:
                if path not in self._images and image.nbytes <= self._room:
                    self._images[path] = image
                    self._room -= image.nbytes
        return image


class PairedFolder:
    """Pairs from two folders: `root/input_dir/NAME.*` is rainy, `root/target_dir/NAME.*` clean.

    Files pair by name without the suffix, so that a JPEG may be the rainy side of a PNG.

    Args:
        root: the folder that holds both.
        verify: check every file at once (see `verify`). Without, only the pairing is checked.
        cache: keep decoded images in memory, as many as fit into CACHE_LIMIT_BYTES.

    Raises UserError that names every file in question.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        input_dir: str = "input",
        target_dir: str = "target",
        *,
        verify: bool = True,
        cache: bool = False,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder")
        self._decode = _Decoder(cache)
        self._pairing_problems: list[str] = []
        inputs = self._by_stem(self.root / input_dir)
        targets = self._by_stem(self.root / target_dir)
        for stem in sorted(inputs.keys() - targets.keys()):
            self._pairing_problems.append(f"{inputs[stem]}: no partner in {target_dir}/")
        for stem in sorted(targets.keys() - inputs.keys()):
            self._pairing_problems.append(f"{targets[stem]}: no partner in {input_dir}/")
        self.names = sorted(inputs.keys() & targets.keys())
        self._paths = [(inputs[name], targets[name]) for name in self.names]
        self._orphans = [
            path
            for files, partners in ((inputs, targets), (targets, inputs))
            for name, path in sorted(files.items())
            if name not in partners
        ]
        if verify:
            self.verify()
        else:
            _raise_problems(self.root, self._pairing_problems)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        input_path, target_path = self._paths[index]
        return {
            "input": self._decode(input_path),
            "target": self._decode(target_path),
            "name": self.names[index],
        }

    def __repr__(self) -> str:
        return f"PairedFolder({str(self.root)!r}, {len(self)} pairs)"

    def verify(self) -> None:
        """Decodes every file completely and compares the sizes of each pair.

        Raises one UserError that names all corrupt files, all files without a partner and all
        pairs of different size.
        """
        # Decoding releases the interpreter's lock, so threads do help.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            pair_problems = pool.map(self._check_pair, self._paths)
            problems = [
                *self._pairing_problems,
                *chain.from_iterable(pair_problems),
                *_undecodable(self._orphans, self._decode, pool),
            ]
        _raise_problems(self.root, problems)

    def _by_stem(self, folder: Path) -> dict[str, Path]:
        """The folder's images by name without suffix; names used twice are noted as problems."""
        files: dict[str, Path] = {}
        for path in list_images(folder):
            if path.stem in files:
                self._pairing_problems.append(
                    f"{path}: {files[path.stem].name} has the same name without suffix"
                )
            else:
                files[path.stem] = path
        if not files:
            raise UserError(f"{folder}: no images in this folder")
        return files

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


class SyntheticRain:
    """Clean photographs with rain rendered over them (drsformer_jax.data.rain).

    Args:
        clean: a folder of photographs, or a sequence of uint8 `H W 3` arrays or (name, array).
        level: 'light', 'medium', 'heavy' or 'mixed'.
        seed: pair i depends on (seed, i) and the photograph alone.
        versions: how many different rains a photograph gets: the length is photographs * versions.
        crop: render only a random crop x crop window (a different one each version) of photographs
            that are larger: for training on small patches rendering the rest would be wasted.
        cache: keep decoded photographs in memory, as many as fit into CACHE_LIMIT_BYTES.

    Raises UserError that names every file in question.
    """

    def __init__(
        self,
        clean: str | os.PathLike[str] | Sequence[np.ndarray | tuple[str, np.ndarray]],
        level: str = "mixed",
        seed: int = 0,
        versions: int = 1,
        *,
        crop: int | None = None,
        cache: bool = True,
    ) -> None:
        if level not in LEVELS:
            raise UserError(f"rain level {level!r} is not one of {', '.join(LEVELS)}")
        if seed < 0 or versions < 1 or (crop is not None and crop < 1):
            raise UserError(
                f"versions and crop must be positive and the seed not negative, got {versions}, "
                f"{crop} and {seed}"
            )
        self.level, self.seed, self.versions, self.crop = level, seed, versions, crop
        self._decode = _Decoder(cache)
        self._photographs: list[tuple[str, np.ndarray | Path]] = []
        if isinstance(clean, str | os.PathLike):
            self._photographs += self._folder(Path(clean))
        else:
            for index, item in enumerate(clean):
                self._photographs.append(
                    item if isinstance(item, tuple) else (f"{index:04d}", item)
                )
        if not self._photographs:
            raise UserError("no clean photographs to render rain over")

    def __len__(self) -> int:
        return len(self._photographs) * self.versions

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        version, photograph = divmod(index, len(self._photographs))
        name, image = self._photographs[photograph]
        target = self._decode(image) if isinstance(image, Path) else image
        rng = np.random.default_rng((self.seed, index))
        if self.crop is not None:
            height, width = target.shape[:2]
            top = int(rng.integers(max(0, height - self.crop) + 1))
            left = int(rng.integers(max(0, width - self.crop) + 1))
            target = target[top : top + self.crop, left : left + self.crop]
        rainy = add_rain(target, sample_rain(self.level, rng), rng)
        if self.versions > 1:
            name = f"{name}_{version:04d}"
        return {"input": rainy, "target": target, "name": name}

    def __repr__(self) -> str:
        return (
            f"SyntheticRain({len(self._photographs)} photographs, {self.level!r}, "
            f"seed={self.seed}, versions={self.versions})"
        )

    def _folder(self, folder: Path) -> list[tuple[str, np.ndarray | Path]]:
        """Names and paths of a folder's photographs, all of them checked."""
        paths = list_images(folder)
        if not paths:
            raise UserError(f"{folder}: no images in this folder")

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            _raise_problems(folder, _undecodable(paths, self._decode, pool))
        return [(path.stem, path) for path in paths]


def _undecodable(paths: list[Path], decode: _Decoder, pool: ThreadPoolExecutor) -> list[str]:
    """What is wrong with those of `paths` that cannot be decoded, in their order."""

    def problem(path: Path) -> str | None:
        try:
            decode(path)
        except UserError as error:
            return str(error)
        return None

    return [found for found in pool.map(problem, paths) if found is not None]


def _raise_problems(folder: Path, problems: list[str]) -> None:
    """Raises one UserError for all `problems`, if there are any."""
    if not problems:
        return
    named = "; ".join(problems[:MAX_PROBLEMS_NAMED])
    if len(problems) > MAX_PROBLEMS_NAMED:
        named += f"; and {len(problems) - MAX_PROBLEMS_NAMED} more"
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise UserError(f"{count} with the images in {folder}: {named}")
