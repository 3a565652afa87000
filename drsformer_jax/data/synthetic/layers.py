"""Layers of rain taken from pairs, where they are known, and windows of them."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from drsformer_jax.data.transforms import pad_to_size

# Windows that are looked at until one is known well enough: under a white sky none may be.
_ATTEMPTS = 12


def rain_layer(input: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The grey layer that was added to `target`: uint8 `H W` of two uint8 `H W 3`.

    A saturated sample shows less than was added, so that the largest difference is the layer's
    wherever one channel is not saturated.
    """
    difference = (input.astype(np.int16) - target).max(axis=-1)
    return np.clip(difference, 0, 255).astype(np.uint8)


def unknown_rain(input: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Where there may be more rain than can be seen: uint8 `H W`, 0 or 1.

    That is where the image is white and was bright without the rain: of a layer of 128 or more,
    what is missing is the smaller part.

    Args:
      input: uint8 `H W 3`.
      layer: what can be seen, uint8 `H W`, by `rain_layer`.
    """
    return ((input == 255).all(axis=-1) & (layer < 128)).astype(np.uint8)


def known_window(
    layer: np.ndarray, size: int, unknown: float, rng: np.random.Generator
) -> np.ndarray:
    """The first window that is known well enough, or the best one; float32 size x size.

    Args:
      unknown: the largest share that is good enough, 0 to 1.
      layer: strength of the rain and where it is unknown, `H W 2`.
    """
    best, least = None, math.inf
    for _ in range(_ATTEMPTS):
        found = window(layer, size, rng)
        share = float(found[..., 1].mean())
        if share < least:
            best, least = found[..., 0], share
        if share <= unknown:
            break
    return np.asarray(best, np.float32)


def window(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random size x size window of `H W` or `H W C`, extended by reflection if it is smaller."""
    planes = image[..., None] if image.ndim == 2 else image
    (planes,) = pad_to_size(planes, size=size)
    top = int(rng.integers(planes.shape[0] - size + 1))
    left = int(rng.integers(planes.shape[1] - size + 1))
    found = planes[top : top + size, left : left + size]
    return found[..., 0] if image.ndim == 2 else found


def turned(layer: np.ndarray, size: int, scale: float, turn: float) -> np.ndarray:
    """The middle of a layer, enlarged by `scale` and turned (radians); float32 size x size."""
    cosine, sine = math.cos(turn) / scale, math.sin(turn) / scale
    middle, centre = (size - 1) / 2, (layer.shape[0] - 1) / 2
    coefficients = (
        cosine,
        sine,
        centre - cosine * middle - sine * middle,
        -sine,
        cosine,
        centre + sine * middle - cosine * middle,
    )
    found = Image.fromarray(layer.astype(np.float32)).transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(found)
