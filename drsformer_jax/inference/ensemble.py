"""Eight restorations of one image, flipped and turned, averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drsformer_jax.data.transforms import dihedral
from drsformer_jax.inference.samples import quantise
from drsformer_jax.inference.tiles import DEFAULT_BLEND, DEFAULT_OVERLAP

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

FLIPS = 8


def derain_eightfold(
    derain: Derainer,
    image: np.ndarray,
    *,
    tile: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
    blend: str = DEFAULT_BLEND,
) -> np.ndarray:
    """The mean of what the network makes of an image's eight flips and rotations, each turned back.

    Known as self-ensemble (Timofte, Rothe and Van Gool, "Seven ways to improve example-based single
    image super resolution", 2016).

    Args:
      image: uint8 `H W 3`, RGB.
      tile, overlap, blend: as for `Derainer`.

    Returns:
      uint8, the shape of `image`.

    Raises:
      What `Derainer` raises.
    """
    unit = image.astype(np.float32) / np.float32(255)
    total = np.zeros_like(unit)
    for flip in range(FLIPS):
        flipped = np.ascontiguousarray(dihedral(unit, flip))
        restored = derain.restore_float(flipped, tile=tile, overlap=overlap, blend=blend)
        total += undone(restored, flip)
    return quantise(total / np.float32(FLIPS))


def undone(image: np.ndarray, flip: int) -> np.ndarray:
    """`dihedral(image, flip)` turned back: the same with its steps in the other order."""
    if flip & 4:
        image = image.swapaxes(0, 1)
    return dihedral(image, flip & 3)
