"""How large an image may be: as large as its owner likes, or as the program that asks allows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from PIL import Image

_LOCK = threading.Lock()
_decoding = 0
_limit_of_pillow: int | None = None


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """ValueError if an image has more than `max_pixels` pixels; None: any number is welcome."""
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than the {max_pixels:,} allowed")


@contextlib.contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Keeps Pillow from refusing large images as attacks, in a file that the user named.

    Pillow knows one limit for the whole process: it is lifted while any thread is in here, and
    then what it was before.
    """
    global _decoding, _limit_of_pillow
    with _LOCK:
        if _decoding == 0:
            _limit_of_pillow, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _decoding += 1
    try:
        yield
    finally:
        with _LOCK:
            _decoding -= 1
            if _decoding == 0:
                Image.MAX_IMAGE_PIXELS = _limit_of_pillow
