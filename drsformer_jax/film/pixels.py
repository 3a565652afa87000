"""Frames of a film to RGB and back, so that one that nothing was done to keeps its colours."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from drsformer_jax.film.source import FULL, LIMITED, Look

# The default is fast, and a level darker.
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
# swscale has one name for the two that BT.601 has.
_SWSCALE_MATRIX = {6: 5}


class Pixels:
    """Converts the frames of one film."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._in, self._out = VideoReformatter(), VideoReformatter()

    def rgb(self, frame: Any) -> np.ndarray:
        """A decoded frame as it is shown: uint8 `H W 3`, upright."""
        look = self._look
        converted = self._in.reformat(
            frame,
            look.width,
            look.height,
            "rgb24",
            src_colorspace=_SWSCALE_MATRIX.get(look.matrix, look.matrix),
            src_color_range=FULL if look.is_full else LIMITED,
            interpolation=_EXACT,
        )
        return upright(converted.to_ndarray(), look.orientation)

    def frame(self, rgb: np.ndarray, pixel_format: str, width: int, height: int) -> Any:
        """uint8 `H W 3` as a frame; what it lacks to the size is the last row or column again."""
        missing = (0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0)
        frame = av.VideoFrame.from_ndarray(np.pad(rgb, missing, mode="edge"), "rgb24")
        return self._out.reformat(
            frame,
            format=pixel_format,
            dst_colorspace=_SWSCALE_MATRIX.get(self._look.matrix, self._look.matrix),
            dst_color_range=FULL if self._look.is_full else LIMITED,
            interpolation=_EXACT,
        )


def upright(image: np.ndarray, orientation: tuple[int, int, int, int] | None) -> np.ndarray:
    """Turns and mirrors `H W C` as a display matrix of right angles says.

    A point (x, y) is shown at (a x + c y, b x + d y), up to a shift; all of a, b, c, d are -1, 0
    or 1.
    """
    if orientation is None:
        return image
    a, b, c, d = orientation
    if b or c:
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: d or 1, :: a or 1])
