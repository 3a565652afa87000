"""Paired patches and their augmentation, as in the original's training (uint8 or float arrays)."""

from __future__ import annotations

import numpy as np

# Both parameters of the Beta distribution that mixup draws its weight from (the original's value).
MIXUP_BETA = 1.2


def pad_to_size(*images: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Extends `H W C` images at the bottom and the right by reflection to at least size x size.

    An image smaller than the extension is reflected back and forth as often as needed. Images
    that are large enough are returned as they are.
    """
    padded = []
    for image in images:
        bottom = max(0, size - image.shape[0])
        right = max(0, size - image.shape[1])
        if bottom or right:
            image = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")
        padded.append(image)
    return tuple(padded)


def random_crop_pair(
    input: np.ndarray, target: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random size x size window of both `H W C` images, padded first if too small.

    Raises ValueError if the two differ in height or width.
    """
    if input.shape[:2] != target.shape[:2]:
        raise ValueError(f"input is {input.shape[:2]} but target {target.shape[:2]}")
    input, target = pad_to_size(input, target, size=size)
    top = int(rng.integers(input.shape[0] - size + 1))
    left = int(rng.integers(input.shape[1] - size + 1))
    window = (slice(top, top + size), slice(left, left + size))
    return input[window], target[window]


# How training varies patches, with how many of `dihedral`'s are drawn from: all eight, as the
# authors do, or left and right alone, for rain falls downwards.
DIHEDRAL, MIRROR = "dihedral", "mirror"
ORIENTATIONS = {DIHEDRAL: 8, MIRROR: 2}


def dihedral(image: np.ndarray, k: int) -> np.ndarray:
    """One of the eight flips and rotations of `H W C`, k in 0..7 (0: none); a view.

    Bit 0 flips left-right, bit 1 up-down, bit 2 swaps the axes (H and W trade places).
    """
    if not 0 <= k < 8:
        raise ValueError(f"k must be in 0..7, got {k}")
    if k & 1:
        image = image[:, ::-1]
    if k & 2:
        image = image[::-1]
    if k & 4:
        image = image.swapaxes(0, 1)
    return image


def draw_mixup(batch_size: int, rng: np.random.Generator) -> tuple[float, np.ndarray] | None:
    """Decides about one batch: None (half of the time), or its weight and partner permutation.

    The weight is Beta(1.2, 1.2)-distributed, one for the whole batch.
    """
    if rng.random() < 0.5:
        return None
    return float(rng.beta(MIXUP_BETA, MIXUP_BETA)), rng.permutation(batch_size)


def blend(images: np.ndarray, partners: np.ndarray, weight: float) -> np.ndarray:
    """weight * images + (1 - weight) * partners, in the images' floating-point dtype."""
    first = images.dtype.type(weight)
    return first * images + (images.dtype.type(1) - first) * partners
