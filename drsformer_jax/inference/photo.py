"""A user's photograph, restored as the kind of image it was: grey, 16-bit, transparent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from drsformer_jax.data.decoding import Decoded
from drsformer_jax.inference.derainer import as_unit, quantise
from drsformer_jax.inference.tiles import DEFAULT_OVERLAP

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

# Rec. 601 luma: what "grey" means to Pillow, and to the scores on the Y channel.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def restore_photo(
    derainer: Derainer,
    photo: Decoded,
    *,
    tile: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
    on_tile: Callable[[int], None] | None = None,
) -> Decoded:
    """Restores a decoded photograph (`drsformer_jax.data.decoding`) to one of the same kind.

    Colour is restored as it is; grey as RGB with equal channels, and its luma is taken after.
    Alpha passes through untouched. The bits a sample stay as many, and no rounding to 8 bits
    lies in between. `tile`, `overlap` and `on_tile` are those of `Derainer.restore_float`.

    Raises:
      UserError: as the derainer does.
    """
    samples = photo.samples
    grey = samples.shape[2] <= 2
    colour, alpha = np.split(samples, [1 if grey else 3], axis=2)
    if grey:
        colour = np.repeat(colour, 3, axis=2)
    restored = derainer.restore_float(as_unit(colour), tile=tile, overlap=overlap, on_tile=on_tile)
    if grey:
        restored = (restored @ _LUMA)[..., None]
    restored = np.concatenate([quantise(restored, samples.dtype), alpha], axis=2)
    return Decoded(restored, photo.icc_profile)
