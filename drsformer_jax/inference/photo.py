"""A user's photograph, restored as the kind of image it was: grey, 16-bit, transparent."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from drsformer_jax.data.decoding import Decoded
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path
from drsformer_jax.inference.samples import as_unit, quantise
from drsformer_jax.inference.tiles import DEFAULT_BLEND, DEFAULT_OVERLAP

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

# Rec. 601 luma: what "grey" means to Pillow, and to the scores on the Y channel.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Colour types of the PNG standard by the number of channels, and Pillow's names for 8 bits.
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_EIGHT_BIT_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def restore_photo(
    derainer: Derainer,
    photo: Decoded,
    *,
    tile: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
    blend: str = DEFAULT_BLEND,
    on_tile: Callable[[int], None] | None = None,
) -> Decoded:
    """Restores a decoded photograph (`drsformer_jax.data.decoding`) to one of the same kind.

    Colour is restored as it is; grey as RGB with equal channels, and its luma is taken after.
    Alpha passes through untouched. The bits a sample stay as many, and no rounding to 8 bits
    lies in between. `tile`, `overlap`, `blend` and `on_tile` are those of
    `Derainer.restore_float`.

    Raises:
      UserError: as the derainer does.
    """
    samples = photo.samples
    grey = samples.shape[2] <= 2
    colour, alpha = np.split(samples, [1 if grey else 3], axis=2)
    if grey:
        colour = np.repeat(colour, 3, axis=2)
    restored = derainer.restore_float(
        as_unit(colour), tile=tile, overlap=overlap, blend=blend, on_tile=on_tile
    )
    if grey:
        restored = (restored @ _LUMA)[..., None]
    restored = np.concatenate([quantise(restored, samples.dtype), alpha], axis=2)
    return Decoded(restored, photo.icc_profile)


def write_photo(path: str | os.PathLike[str], photo: Decoded) -> None:
    """Writes a PNG with 8 or 16 bits a sample; the file appears complete or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(png_bytes(photo))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def png_bytes(photo: Decoded) -> bytes:
    """A PNG file with 8 or 16 bits a sample."""
    samples = np.ascontiguousarray(photo.samples)
    if samples.dtype == np.uint16:
        return _deep_png(samples, photo.icc_profile)
    height, width, channels = samples.shape
    image = Image.frombytes(_EIGHT_BIT_MODES[channels], (width, height), samples.tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", icc_profile=photo.icc_profile)
    return file.getvalue()


def _deep_png(samples: np.ndarray, icc_profile: bytes | None) -> bytes:
    """A PNG file of uint16 `H W C` samples, which Pillow writes for grey only.

    Every row is stored as its difference to the row above (filter type 2 of the PNG standard).
    """
    height, width, channels = samples.shape
    rows = np.frombuffer(samples.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour_type = _PNG_COLOUR_TYPES[channels]
    parts = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if icc_profile:
        parts.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)))
    parts += [_chunk(b"IDAT", zlib.compress(filtered.tobytes())), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
