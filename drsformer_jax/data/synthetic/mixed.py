"""Rain mixed anew for every patch: layers of real and rendered rain over clean photographs.

In the sets of Rain100 and Rain200 the rainy image is clip(clean + layer), with one grey layer that
is nowhere negative (Yang et al., CVPR 2017, section 3). So `input - target` of a few pairs is rain
of the very kind that is scored, to be put over any photograph: flipped, turned, scaled, brighter,
several at a time. Beside it stand streak images, our own rendered rain, pairs as they are, and
photographs without rain, of which the network is to change nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drsformer_jax.data.sources import (
    Cache,
    Pair,
    PairedFolder,
    checked_images,
    find_split,
    image_cache,
)
from drsformer_jax.data.synthetic.layers import (
    known_window,
    rain_layer,
    turned,
    unknown_rain,
    window,
)
from drsformer_jax.data.synthetic.rain import add_mist, add_rain, sample_rain
from drsformer_jax.data.transforms import random_crop_pair
from drsformer_jax.errors import UserError

# How a patch gets its rain; the keys of MixOptions.shares.
KINDS = ("none", "light", "heavy", "streaks", "rendered", "pairs")

# Of layers that are warped: a scale, and a turn in degrees.
_SCALE = (0.7, 1.4)
_TURN = 12.0
_UPSIDE_DOWN = 0.2  # real drops fade out at both ends, but fall one way

# Streak images hold one depth each: so many of one slant are added up, each of them with its gain.
_STREAK_LAYERS = (1, 2, 3, 5, 8)
_STREAK_GAIN = (0.5, 1.3)

# Opacity and brightness of mist, where there is some.
_MIST = (0.03, 0.3)
_AIRLIGHT = (0.6, 0.95)

# Photographs are larger than the scenes of the test sets: half of them are made smaller.
_SMALLEST_PHOTOGRAPH = 0.5
_SMALLER = 0.5


@dataclasses.dataclass(frozen=True)
class MixOptions:
    """What is mixed (`config.data.rain`).

    Attributes:
      light, heavy: folders of pairs whose `input - target` is light or heavy rain.
      streaks: folders of grey images of streaks over black.
      pairs: folders of pairs that are taken as they are.
      shares: how much of the patches each of KINDS makes up; what is not named has no part.
      mist: the share of patches with a layer of rain that get mist behind it, 0 to 1.
      unknown: a window of a layer is drawn again if more than this share of it is unknown, 0 to 1.
        Where a bright photograph became white, its difference to white is the least that the
        layer may be, and looks like the photograph.
      dense: the share of heavy patches that get two windows of one layer, which fall one way.
      gain: a layer's brightness is multiplied by a factor between these two.
      warped: the share of layers that are scaled and turned, 0 to 1.
      second: the share of patches with a layer that get a light one above it, 0 to 1.

    Raises:
      ValueError: an unknown kind, a share that is negative or above one, none that is positive, or
        one of a kind that has no folder; a gain that is not two positive factors in order.
    """

    light: tuple[str, ...] = ()
    heavy: tuple[str, ...] = ()
    streaks: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"rendered": 1.0})
    mist: float = 0.0
    unknown: float = 1.0
    dense: float = 0.0
    gain: tuple[float, float] = (0.75, 1.3)
    warped: float = 0.5
    second: float = 0.3

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.shares) - set(KINDS)):
            raise ValueError(f"shares: unknown kinds {', '.join(unknown)}; known: {KINDS}")
        for kind, share in self.shares.items():
            if not (isinstance(share, int | float) and 0 <= share < math.inf):
                raise ValueError(f"shares.{kind}: must be a number, not negative, not {share!r}")
            if share > 0 and kind in FOLDERS and not getattr(self, kind):
                raise ValueError(f"shares.{kind} is {share}, and {kind} names no folder")
        if not sum(self.shares.values()) > 0:
            raise ValueError("shares: one must be positive")
        for name in ("mist", "unknown", "dense", "warped", "second"):
            share = getattr(self, name)
            if not (isinstance(share, int | float) and 0 <= share <= 1):
                raise ValueError(f"{name}: must be a share from 0 to 1, not {share!r}")
        match self.gain:
            case [float() | int() as low, float() | int() as high] if 0 < low <= high < math.inf:
                pass
            case _:
                raise ValueError(f"gain: must be two factors, the smaller first, not {self.gain}")


# Kinds that come from folders.
FOLDERS = ("light", "heavy", "streaks", "pairs")


class MixedRain:
    """Patches of clean photographs, each under rain of its own.

    Args:
      clean: folders of photographs; of a folder of pairs, its clean ones.
      options: what the rain is made of.
      seed: pair i depends on (seed, i) and the files alone.
      versions: how many different patches each photograph gives: the length is photographs *
        versions.
      crop: height and width of the pairs, in pixels; smaller photographs are extended by
        reflection.
      cache: keep decoded images in memory, as many as fit into CACHE_LIMIT_BYTES.

    Raises:
      UserError: a folder is missing or empty; files that cannot be read, all of them named.
    """

    def __init__(
        self,
        clean: Sequence[str | os.PathLike[str]],
        options: MixOptions,
        seed: int = 0,
        versions: int = 1,
        *,
        crop: int,
        cache: bool = True,
    ) -> None:
        if seed < 0 or versions < 1 or crop < 1:
            raise UserError(
                f"versions and crop must be positive and the seed not negative, got {versions}, "
                f"{crop} and {seed}"
            )
        self.options, self.seed, self.versions, self.crop = options, seed, versions, crop
        self._decode = image_cache(cache)
        self._photographs = [path for folder in clean for path in self._checked(Path(folder))]
        if not self._photographs:
            raise UserError("no clean photographs to put rain over")
        used = {kind for kind, share in options.shares.items() if share > 0}
        pairs = {
            kind: [PairedFolder(root, cache=cache) for root in getattr(options, kind)]
            for kind in ("light", "heavy", "pairs")
            if kind in used
        }
        self._pairs = _chained(pairs.pop("pairs", []))
        self._layer = Cache(_layer_of, lambda layer: layer.nbytes, keep=cache)
        self._layers: dict[str, list[Any]] = {
            kind: _chained(folders) for kind, folders in pairs.items()
        }
        self._streaks = (
            [path for root in options.streaks for path in self._checked(Path(root))]
            if "streaks" in used
            else []
        )
        self._kinds = [kind for kind in KINDS if kind in used]
        shares = np.array([options.shares[kind] for kind in self._kinds], float)
        self._bounds = np.cumsum(shares / shares.sum())

    def __len__(self) -> int:
        return len(self._photographs) * self.versions

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        version, number = divmod(index, len(self._photographs))
        path = self._photographs[number]
        rng = np.random.default_rng((self.seed, index))
        kind = self._kinds[
            min(
                int(np.searchsorted(self._bounds, rng.random(), side="right")), len(self._kinds) - 1
            )
        ]
        name = f"{path.stem}_{version:06d}_{kind}"
        if kind == "pairs":
            folder, which = self._pairs[int(rng.integers(len(self._pairs)))]
            pair = folder[which]
            input, target = random_crop_pair(pair["input"], pair["target"], self.crop, rng)
            return {"input": input, "target": target, "name": name}
        target = self._patch(self._decode(path), rng)
        return {"input": self._rainy(target, kind, rng), "target": target, "name": name}

    def __repr__(self) -> str:
        shares = ", ".join(f"{kind} {self.options.shares[kind]:g}" for kind in self._kinds)
        return f"MixedRain({len(self._photographs)} photographs, {shares}, seed={self.seed})"

    def _checked(self, folder: Path) -> list[Path]:
        """The photographs of a folder, each of them decoded once."""
        split = find_split(folder)
        photographs = folder if split is None else folder / str(split.target_dir)
        return checked_images(photographs, self._decode)

    def _patch(self, photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A window of the photograph, or of a smaller copy of it; uint8 crop crop 3."""
        shortest = min(photograph.shape[:2])
        smallest = max(_SMALLEST_PHOTOGRAPH, self.crop / shortest)
        size = self.crop
        if smallest < 1 and rng.random() < _SMALLER:
            size = min(math.ceil(self.crop / rng.uniform(smallest, 1.0)), shortest)
        patch = window(photograph, size, rng)
        if size == self.crop:
            return patch
        shape = (self.crop, self.crop)
        return np.asarray(Image.fromarray(patch).resize(shape, Image.Resampling.LANCZOS))

    def _rainy(self, clean: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
        """The patch under rain of a kind; uint8 crop crop 3."""
        if kind == "none":
            return clean
        if kind == "rendered":
            return add_rain(clean, sample_rain("mixed", rng), rng)
        layer = self._rain_of(kind, rng)
        image = clean.astype(np.float32)
        if rng.random() < self.options.mist:
            image = add_mist(image, rng.uniform(*_MIST), rng.uniform(*_AIRLIGHT), rng)
        return np.clip(np.rint(image + layer[..., None]), 0, 255).astype(np.uint8)

    def _rain_of(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """A layer of rain, float32 crop crop, in units of 8-bit samples."""
        if kind == "streaks":
            streaks = self._decode(self._streaks[int(rng.integers(len(self._streaks)))])[..., 0]
            mirrored = bool(rng.random() < 0.5)
            count = _STREAK_LAYERS[int(rng.integers(len(_STREAK_LAYERS)))]
            layers = [
                window(streaks, self.crop, rng) * np.float32(rng.uniform(*_STREAK_GAIN))
                for _ in range(count)
            ]
            total = functools.reduce(np.add, layers)
            return total[:, ::-1] if mirrored else total
        kinds = [kind]
        if rng.random() < self.options.second and "light" in self._layers:
            kinds.append("light")
        return functools.reduce(np.add, [self._varied(kind, rng) for kind in kinds])

    def _varied(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """A window of a layer of real pairs in another place, direction, size and strength."""
        layers = self._layers[kind]
        layer = self._layer(layers[int(rng.integers(len(layers)))])
        if rng.random() < 0.5:
            layer = layer[:, ::-1]
        if rng.random() < _UPSIDE_DOWN:
            layer = layer[::-1]
        gain = np.float32(rng.uniform(*self.options.gain))
        size, scale, turn = self.crop, 1.0, 0.0
        if warped := rng.random() < self.options.warped:
            scale = math.exp(rng.uniform(math.log(_SCALE[0]), math.log(_SCALE[1])))
            turn = math.radians(rng.uniform(-_TURN, _TURN))
            size = math.ceil(self.crop / scale * (math.cos(turn) + abs(math.sin(turn)))) + 2
        strength = known_window(layer, size, self.options.unknown, rng)
        # Without `dense` nothing is drawn, so that the pairs of a seed are those of before it.
        if kind == "heavy" and self.options.dense and rng.random() < self.options.dense:
            strength = strength + known_window(layer, size, self.options.unknown, rng)
        return (turned(strength, self.crop, scale, turn) if warped else strength) * gain


def _layer_of(place: tuple[PairedFolder, int]) -> np.ndarray:
    """Strength of the rain and where it is unknown; uint8 `H W 2`."""
    folder, index = place
    pair = folder[index]
    strength = rain_layer(pair["input"], pair["target"])
    layer = np.stack([strength, unknown_rain(pair["input"], strength)], axis=-1)
    layer.setflags(write=False)
    return layer


def _chained(folders: Sequence[PairedFolder]) -> list[tuple[PairedFolder, int]]:
    """The pairs of several folders: which folder, and which of its pairs."""
    return [(folder, index) for folder in folders for index in range(len(folder))]
