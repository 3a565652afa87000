"""Samples of unsigned integer types, and the same in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np


def quantise(image: np.ndarray, dtype: Any = np.uint8) -> np.ndarray:
    """Clamps a float image to [0, 1] and rounds it to the range of an unsigned integer type.

    Halves go to the even neighbour, as in the authors' test program.
    """
    # In place: of a large image every copy counts.
    scaled = np.clip(image, 0, 1)
    scaled *= np.float32(np.iinfo(dtype).max)
    return np.rint(scaled, out=scaled).astype(dtype)


def as_unit(image: np.ndarray) -> np.ndarray:
    """An image of an unsigned integer type as float32 in [0, 1]."""
    unit = image.astype(np.float32)
    unit /= np.float32(np.iinfo(image.dtype).max)
    return unit


def check_image(image: np.ndarray, dtype: Any, channels: int) -> None:
    """Raises ValueError for what is no `H W C` image of a type and number of channels."""
    expected = f"expected {np.dtype(dtype)} pixels of shape (height, width, {channels})"
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{expected}, got {type(image).__name__}")
    if image.dtype != dtype or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise ValueError(f"{expected}, got {image.dtype} of shape {image.shape}")
