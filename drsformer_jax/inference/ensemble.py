"""Restorations of one image, flipped and turned, averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drsformer_jax.data.transforms import dihedral
from drsformer_jax.inference.samples import quantise
from drsformer_jax.inference.tiles import DEFAULT_BLEND, DEFAULT_OVERLAP

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer


def derain_averaged(
    derain: Derainer,
    image: np.ndarray,
    orientations: int,
    *,
    tile: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
    blend: str = DEFAULT_BLEND,
) -> np.ndarray:
    """The mean of what the network makes of flips and rotations of an image, each turned back.

    Known as self-ensemble (Timofte, Rothe and Van Gool, "Seven ways to improve example-based single
    image super resolution", 2016). A network that was trained on upright rain knows no other: the
    orientations are to be those of its training (`data.transforms.ORIENTATIONS`).

    Args:
      image: uint8 `H W 3`, RGB.
      orientations: how many of `dihedral`'s, the first ones: 2 for left and right, 8 for all.
      tile, overlap, blend: as for `Derainer`.

    Returns:
      uint8, the shape of `image`.

    Raises:
      What `Derainer` raises.
    """
    unit = image.astype(np.float32) / np.float32(255)
    total = np.zeros_like(unit)
    for flip in range(orientations):
        flipped = np.ascontiguousarray(dihedral(unit, flip))
        restored = derain.restore_float(flipped, tile=tile, overlap=overlap, blend=blend)
        total += undone(restored, flip)
    return quantise(total / np.float32(orientations))


def undone(image: np.ndarray, flip: int) -> np.ndarray:
    """`dihedral(image, flip)` turned back: the same with its steps in the other order."""
    if flip & 4:
        image = image.swapaxes(0, 1)
    return dihedral(image, flip & 3)
