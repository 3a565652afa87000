"""Small copies of data sets in the folders that they are unpacked to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from drsformer_jax.data.synthetic.rain import add_rain, sample_rain


def clean(seed: int, height: int = 33, width: int = 49) -> np.ndarray:
    """A picture unlike those of other seeds: a few smooth blobs of light."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 40.0)
    for _ in range(6):
        y, x, size = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(3, 9)
        blob = np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * size**2))
        picture += blob[..., None] * rng.uniform(30, 160, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def rainy(image: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(1_000 + seed)
    return add_rain(image, sample_rain("heavy", rng), rng)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def _two_folders(
    root: Path, splits: dict[str, int], name: Callable[[int], str], upright: int = 3
) -> None:
    first = 0
    for split, count in splits.items():
        for i in range(count):
            shape = (49, 33) if i % upright == 0 else (33, 49)
            image = clean(first + i, *shape)
            save(root / split / "target" / name(i + 1), image)
            save(root / split / "input" / name(i + 1), rainy(image, first + i))
        first += count


def rain200(root: Path) -> None:
    """`1.png` with `1.png`, 481x321 next to 321x481."""
    _two_folders(root, {"train": 4, "test": 2}, lambda i: f"{i}.png")


def rain100_at_first(root: Path) -> None:
    """`norain-1x2.png` with `norain-1.png`."""
    for split, start in (("train", 0), ("test", 10)):
        for i in range(3):
            image = clean(start + i)
            save(root / split / "norain" / f"norain-{i + 1}.png", image)
            save(root / split / "rain" / "X2" / f"norain-{i + 1}x2.png", rainy(image, i))


def did(root: Path) -> None:
    """JPEG."""
    _two_folders(root, {"train": 3, "test": 2}, lambda i: f"{i}.jpg")


def ddn(root: Path) -> None:
    """`901_1.jpg` to `901_14.jpg` with `901.jpg`."""
    for split, numbers in (("train", (1, 2)), ("test", (901,))):
        for number in numbers:
            image = clean(number)
            save(root / split / "target" / f"{number}.jpg", image)
            for i in range(1, 15):
                save(root / split / "input" / f"{number}_{i}.jpg", rainy(image, 20 * number + i))


def spa(root: Path) -> None:
    """Of the training PNGs one is grey and one has alpha; a test one has a palette."""
    _two_folders(root, {"train": 3, "test": 2}, lambda i: f"{i}.png")
    for side in ("input", "target"):
        second, third = (root / "train" / side / f"{i}.png" for i in (2, 3))
        Image.open(second).convert("L").save(second)
        Image.open(third).convert("RGBA").save(third)
    palette = root / "test" / "input" / "2.png"
    Image.open(palette).quantize(16).save(palette)


def rain800(root: Path) -> None:
    """One JPEG a pair, clean | rainy."""
    for split, start, count in (("training", 0, 3), ("test_syn", 10, 2)):
        for i in range(count):
            image = clean(start + i)
            both = np.concatenate([image, rainy(image, i)], axis=1)
            save(root / split / f"{i}.jpg", both)


# Pairs by split.
MINIATURES: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "rain200l": (rain200, {"train": 4, "test": 2}),
    "rain200h": (rain200, {"train": 4, "test": 2}),
    "rain100l": (rain200, {"train": 4, "test": 2}),
    "rain100h": (rain100_at_first, {"train": 3, "test": 3}),
    "did": (did, {"train": 3, "test": 2}),
    "ddn": (ddn, {"train": 28, "test": 14}),
    "spa": (spa, {"train": 3, "test": 2}),
    "rain800": (rain800, {"train": 3, "test": 2}),
}
