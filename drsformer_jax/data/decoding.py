"""Image files in, their samples out: nothing converted that need not be."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import UnidentifiedImageError

from drsformer_jax.data.formats.colour import CMYK, LAB, Limit, Stored, in_srgb
from drsformer_jax.data.formats.metadata import NO_METADATA, Metadata
from drsformer_jax.data.formats.pillow import read_with_pillow
from drsformer_jax.errors import UserError
from drsformer_jax.paths import nothing_at

# The first bytes of TIFF and BigTIFF files, in both byte orders.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An upright image as its file holds it.

    Attributes:
      samples: uint8 or uint16 `H W C`; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha),
        alpha not premultiplied.
      icc_profile: the colour profile of the samples, if the file has a fitting one.
      frames: how many images the file holds; `samples` are those of the first. What belongs to
        one picture (a phone's previews, gain and depth maps, layers) does not count.
      notes: what had to be assumed or was left out, a line each.
      metadata: what the file tells of the picture as it is stored there, not upright
        (`data.formats.metadata.fitted` makes it true).
    """

    samples: np.ndarray
    icc_profile: bytes | None = None
    frames: int = 1
    notes: tuple[str, ...] = ()
    metadata: Metadata = NO_METADATA


def decode_image(path: str | os.PathLike[str], *, max_pixels: Limit = None) -> Decoded:
    """Decodes an image file, its EXIF orientation applied.

    Palettes become RGB, a transparent colour becomes alpha. CMYK and L*a*b* are converted to sRGB
    with the file's colour profile. 16 bits a sample are kept for PNG and TIFF, grey and colour.

    Args:
      max_pixels: refuse images that have more, before they are decoded: for programs that decode
        files of strangers (Pillow's own limit is then in force, too). Or a function that is called
        with height and width, and raises a UserError. None: any size.

    Raises:
      UserError: the file is missing, truncated, no readable image or too large; the message names
        it.
    """
    path = Path(path)
    with _naming(path):
        if path.is_fifo():  # opening it would wait for somebody to write
            raise io.UnsupportedOperation
        with path.open("rb") as file:
            return _decode(file, max_pixels)


def decode_bytes(data: bytes, name: str, *, max_pixels: Limit = None) -> Decoded:
    """`decode_image` of a file that is in memory; messages call it `name`."""
    with _naming(name):
        return _decode(io.BytesIO(data), max_pixels)


def _decode(file: BinaryIO, max_pixels: Limit) -> Decoded:
    stored = _read(file, max_pixels)
    if stored.space in (CMYK, LAB):
        stored = in_srgb(stored)
    samples = _upright(stored.samples, stored.orientation)
    notes = stored.notes
    if stored.frames > 1:
        notes = (f"the first of {stored.frames} images only", *notes)
    return Decoded(samples, stored.fitting_profile, stored.frames, notes, stored.metadata)


def _read(file: BinaryIO, max_pixels: Limit) -> Stored:
    start = file.read(len(_TIFF[0]))
    file.seek(0)
    if start in _TIFF:
        from drsformer_jax.data.formats.tiff import read_tiff

        return read_tiff(file, max_pixels)
    return read_with_pillow(file, max_pixels)


@contextlib.contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Turns whatever a decoder raises into a UserError that names the file."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise nothing_at(Path(path), "file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not an image") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read (permission denied)") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image in a known format") from None
    except io.UnsupportedOperation:
        # A shell's <(...) is one; decoders go back and forth.
        raise UserError(f"{path}: is a pipe, not a file: write its image into a file") from None
    except MemoryError:
        raise UserError(
            f"{path}: too large to be decoded in this machine's memory; cut it into parts or scale "
            "it down"
        ) from None
    except UserError:
        raise
    except Exception as error:
        # On damaged files decoders raise OSError, SyntaxError, ValueError, struct.error and more.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be decoded ({reason})") from error


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors `H W C` as EXIF's orientation (1 to 8) says; other numbers mean nothing."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples
