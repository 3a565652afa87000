"""Rain rendered over clean photographs, as a source of pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drsformer_jax.data.sources import Pair, checked_images, image_cache
from drsformer_jax.data.synthetic.rain import LEVELS, add_rain, sample_rain
from drsformer_jax.errors import UserError


class SyntheticRain:
    """Clean photographs with rain rendered over them (drsformer_jax.data.synthetic.rain).

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
        self._decode = image_cache(cache)
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
        image = self._photographs[index % len(self._photographs)][1]
        target = self._decode(image) if isinstance(image, Path) else image
        rng = np.random.default_rng((self.seed, index))
        if self.crop is not None:
            height, width = target.shape[:2]
            top = int(rng.integers(max(0, height - self.crop) + 1))
            left = int(rng.integers(max(0, width - self.crop) + 1))
            target = target[top : top + self.crop, left : left + self.crop]
        rainy = add_rain(target, sample_rain(self.level, rng), rng)
        return {"input": rainy, "target": target, "name": self.name(index)}

    def name(self, index: int) -> str:
        """Of a pair, without rendering it."""
        version, photograph = divmod(index, len(self._photographs))
        name = self._photographs[photograph][0]
        return f"{name}_{version:04d}" if self.versions > 1 else name

    def __repr__(self) -> str:
        return (
            f"SyntheticRain({len(self._photographs)} photographs, {self.level!r}, "
            f"seed={self.seed}, versions={self.versions})"
        )

    def _folder(self, folder: Path) -> list[tuple[str, np.ndarray | Path]]:
        """Names and paths of a folder's photographs, all of them checked."""
        return [(path.stem, path) for path in checked_images(folder, self._decode)]
