"""Image files in, their samples out: nothing converted that need not be.

Pillow decodes every format, but knows no colour mode with 16 bits a sample and keeps the high
byte only; the low byte is decoded here in a second pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from drsformer_jax.errors import UserError

_GREY_MODES = ("1", "L", "LA", "La")
_NATIVE_SWAPPED = "B" if sys.byteorder == "little" else "L"
# The last letter of Pillow's raw mode is the byte order (little, big, native). With the other
# order its unpackers keep the other byte of each sample.
_SWAPPED_ORDER = {"L": "B", "B": "L", "N": _NATIVE_SWAPPED}


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An upright image as its file holds it.

    Attributes:
      samples: uint8 or uint16 `H W C`; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha),
        alpha not premultiplied.
      icc_profile: the colour profile of the samples, if the file has a fitting one.
      frames: how many images the file holds; `samples` are those of the first.
    """

    samples: np.ndarray
    icc_profile: bytes | None = None
    frames: int = 1


def decode_image(path: str | os.PathLike[str]) -> Decoded:
    """Decodes an image file, its EXIF orientation applied.

    Palettes become RGB, CMYK and other colour spaces too, a transparent colour becomes alpha.
    16 bits a sample are kept for PNG and TIFF, grey and colour.

    Raises:
      UserError: the file is missing, truncated or no readable image; the message names it.
    """
    path = Path(path)
    with _naming(path):
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            image.load()
            profile = image.info.get("icc_profile")
            samples = _sixteen_bits(path, image)
            if samples is None:
                samples = _eight_bits(image)
        return Decoded(samples, _fitting(profile, samples.shape[2]), frames)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises into a UserError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not an image") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read (permission denied)") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image in a known format") from None
    except (MemoryError, UserError):
        raise
    except Exception as error:
        # On damaged files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error
        # and more.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be decoded ({reason})") from error


def _eight_bits(image: Image.Image) -> np.ndarray:
    """uint8 `H W C` of a loaded image."""
    if image.mode == "F":
        raise ValueError("floating-point samples have no fixed range; save it with 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "1":
        upright = upright.convert("L")
    mode = "L" if upright.mode in _GREY_MODES else "RGB"
    if upright.has_transparency_data:
        mode += "A"
    samples = np.asarray(upright.convert(mode))
    return samples.reshape(*samples.shape[:2], -1)


def _sixteen_bits(path: Path, image: Image.Image) -> np.ndarray | None:
    """uint16 `H W C` of a loaded image that has 16 bits a sample; else None."""
    samples: np.ndarray
    if image.mode.startswith("I"):
        # "I" has 32 bits, but is also what 16-bit PGM files are decoded to.
        wide = np.asarray(ImageOps.exif_transpose(image))[..., None]
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("samples exceed 16 bits; save it with 8 or 16 bits")
        samples = wide.astype(np.uint16)
    else:
        # Loading used up the description of the encoded data: take it from a new handle.
        with Image.open(path) as fresh:
            tiles = list(getattr(fresh, "tile", []))
        raw_modes = {_raw_mode(tile.args) for tile in tiles}
        if len(raw_modes) != 1:
            return None
        raw_mode = raw_modes.pop()
        if raw_mode == "LA;16B":
            # The four bytes of a pixel as if they were the channels of an 8-bit image.
            octets = _decoded_as(path, "RGBA").astype(np.uint16)
            samples = octets[..., 0::2] << 8 | octets[..., 1::2]
        elif raw_mode[:-1] in ("RGB;16", "RGBA;16", "RGBX;16"):
            low = _decoded_as(path, raw_mode[:-1] + _SWAPPED_ORDER[raw_mode[-1]])
            high = np.asarray(ImageOps.exif_transpose(image))
            samples = high.astype(np.uint16) << 8 | low
        else:
            return None
    transparent = image.info.get("transparency")
    if transparent is not None and samples.shape[2] in (1, 3):
        opaque = (samples != np.asarray(transparent)).any(axis=2, keepdims=True)
        samples = np.concatenate([samples, opaque.astype(np.uint16) * 65535], axis=2)
    return samples


def _decoded_as(path: Path, raw_mode: str) -> np.ndarray:
    """Decodes an image again with another interpretation of its bytes; upright, uint8 `H W C`."""
    with Image.open(path) as image:
        image.tile = [
            tile._replace(
                args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode
            )
            for tile in image.tile
        ]
        image.load()
        return np.asarray(ImageOps.exif_transpose(image))


def _raw_mode(arguments: object) -> str:
    if isinstance(arguments, tuple) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else ""


def _fitting(profile: bytes | None, channels: int) -> bytes | None:
    """The profile if it describes this kind of samples: bytes 16 to 20 name its colour space."""
    expected = b"GRAY" if channels <= 2 else b"RGB "
    return profile if profile and profile[16:20] == expected else None
