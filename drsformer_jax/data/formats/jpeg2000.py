"""JPEG 2000: what Pillow leaves in the file, or reads wrongly.

Pillow knows neither the colour profile nor EXIF and XMP. Samples of more than 8 bits become 8 in
colour, where white becomes black; of fewer, and of 9 to 15 in grey, white is not the highest value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import imagecodecs
import numpy as np

from drsformer_jax.data.formats.colour import over_whole_range

_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
# How a codestream begins; the number of components, and bits and sign of the first one, follow.
_CODESTREAM = b"\xff\x4f\xff\x51"
_COMPONENTS_AT = 40
_SIGN = 0x80
_BOX = struct.Struct(">I4s")
_ICC_METHODS = (b"\2", b"\3")  # a restricted profile, or any
_EXIF, _XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


def told(data: bytes) -> dict[str, bytes]:
    """The blocks that a file holds, by Pillow's names: icc_profile, exif, xmp."""
    found: dict[str, bytes] = {}
    for kind, content in _boxes(data) if data.startswith(_SIGNATURE) else ():
        if kind == b"uuid" and content.startswith(_EXIF):
            found["exif"] = content[len(_EXIF) :]
        elif kind == b"uuid" and content.startswith(_XMP):
            found["xmp"] = content[len(_XMP) :]
        elif kind == b"jp2h":
            for part, colour in _boxes(content):
                if part == b"colr" and colour[:1] in _ICC_METHODS:
                    found["icc_profile"] = colour[3:]
    return found


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes that follow one another, with their contents, as far as they are whole."""
    at = 0
    while at + _BOX.size <= len(data):
        length, kind = _BOX.unpack_from(data, at)
        start = at + _BOX.size
        if length == 1 and start + 8 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + length if length else len(data)  # 0: to the end of the file
        if not start <= end <= len(data):
            return
        yield kind, data[start:end]
        at = end


def samples_of(data: bytes) -> np.ndarray | None:
    """uint8 or uint16 `H W C` over the whole range; None where Pillow reads them so.

    Raises:
      ValueError: samples that have no 8 or 16 bits.
      imagecodecs.Jpeg2kError: it is damaged.
    """
    start = data.index(_CODESTREAM) + _COMPONENTS_AT
    count = int.from_bytes(data[start : start + 2])
    kinds = data[start + 2 : start + 2 + 3 * count : 3]  # bits, less one, and the sign
    bits = max(kind & ~_SIGN for kind in kinds) + 1
    if len({*kinds}) > 1 or kinds[0] & _SIGN or bits > 16:
        if bits <= 8:
            return None
        raise ValueError(
            "samples are signed, of several depths or exceed 16 bits; save it with 8 or 16 bits"
        )
    if bits == 8:
        return None
    stored = imagecodecs.jpeg2k_decode(data)
    return over_whole_range(stored.reshape(*stored.shape[:2], -1), bits)[0]
