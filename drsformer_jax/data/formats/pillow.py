"""Image files of all the kinds that Pillow decodes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.MpoImagePlugin import MpoImageFile
from PIL.PpmImagePlugin import PpmImageFile

from drsformer_jax.data.formats.colour import CMYK, GREY, LAB, RGB, Limit, Stored, check_pixels
from drsformer_jax.data.formats.metadata import Metadata, damaged, unmarked
from drsformer_jax.errors import missing_extra

# What Pillow registers that is no still picture of pixels: drawings, videos, and kinds that it
# knows the name of only.
_NO_PICTURES = frozenset({"BUFR", "EPS", "FLI", "GRIB", "HDF5", "MPEG", "WMF"})
# Packages that let Pillow read HEIC, the first that is installed; neither is needed.
_HEIF_PLUGINS = ("pi_heif", "pillow_heif")
_HEIF_STARTS = {b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1")}
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})

_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112
_MP_ENTRIES = 0xB002
_PNG_BIT_DEPTH_AT = 24
_SGI_BYTES_AT = 3  # a sample

_LOCK = threading.Lock()
_decoding = 0
_limit_of_pillow: int | None = None


@functools.cache
def _register() -> None:
    """Has Pillow register all formats, the usual ones first: so they are tried."""
    Image.preinit()
    Image.init()
    for package in _HEIF_PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(package).register_heif_opener()
            break


def _picture_formats() -> list[str]:
    """The formats of still pictures that can be decoded, by Pillow's names of their decoders."""
    _register()
    return [name for name in Image.OPEN if name not in _NO_PICTURES]


def picture_suffixes() -> frozenset[str]:
    """The suffixes of those formats, with their dots, in small letters."""
    # MPO is a JPEG file with more behind it, and has no decoder of its own.
    formats = {*_picture_formats(), "MPO"}
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in formats
    )


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


def read_with_pillow(file: BinaryIO, limit: Limit = None) -> Stored:
    """Reads the first image of a file.

    Raises:
      ValueError: samples that have no 8 or 16 bits; more than `limit`.
      Exception: Pillow's own, for damaged files and for what is no image.
    """
    is_of_strangers = isinstance(limit, int)
    lifted = contextlib.nullcontext() if is_of_strangers else without_pillows_limit()
    with lifted:
        image, notes = _opened(file)
        with image:
            check_pixels(*image.size, limit)
            frames, notes = _frames(image), notes + _narrowed(file, image)
            image.load()
            samples, space = _whole_samples(file, image) or _samples(image)
            return Stored(
                samples,
                space,
                profile=image.info.get("icc_profile"),
                orientation=_orientation(image),
                frames=frames,
                notes=notes + _notes(image),
                metadata=Metadata(
                    # None, too, in HEIC.
                    unmarked(image.info.get("exif") or b""),
                    image.info.get("xmp") or b"",
                    image.info.get("dpi"),
                ),
            )


def _opened(file: BinaryIO) -> tuple[Image.Image, tuple[str, ...]]:
    """The image, not yet decoded, and notes on what had to be left out for that."""
    formats = _picture_formats()
    try:
        image = Image.open(file, formats=formats)
    except (UnidentifiedImageError, ValueError):
        file.seek(0)
        # What is no image may be larger than the memory.
        kind = file.read(12)[4:]
        if kind in _HEIF_STARTS and "HEIF" not in formats:
            raise ValueError(str(missing_extra("pi-heif", "heif", "HEIC"))) from None
        if kind != b"ftypavif":
            raise
        file.seek(0)
        data = file.read()
        if b"Exif" not in data:
            raise
    else:
        if image.format == "JPEG2000":
            from drsformer_jax.data.formats.jpeg2000 import told

            file.seek(0)
            for name, block in told(file.read()).items():
                image.info[name] = block
        return image, ()
    # Pillow does not open AVIF whose EXIF is damaged; items of unknown kinds are passed over.
    file = io.BytesIO(data.replace(b"Exif", b"free"))
    return Image.open(file, formats=formats), (damaged("EXIF"),)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # As Pillow raises it on damaged EXIF, which is no reason to refuse the picture.
        return 1


def size_in_header(path: Path) -> tuple[int, int] | None:
    """Height and width of an upright image without decoding it; None where that does not work."""
    try:
        with without_pillows_limit(), Image.open(path, formats=_picture_formats()) as image:
            width, height = image.size
            is_turned = _orientation(image) in (5, 6, 7, 8)
    except Exception:
        # Decoding will say what is wrong.
        return None
    return (width, height) if is_turned else (height, width)


def _frames(image: Image.Image) -> int:
    """How many pictures a file holds; parts and by-products of one picture do not count."""
    if image.format == "PSD":  # its layers
        return 1
    if isinstance(image, MpoImageFile):
        # Mostly previews, gain maps and depth maps of a phone.
        entries = (image.mpinfo or {}).get(_MP_ENTRIES, ())
        kinds = [entry["Attribute"]["MPType"] for entry in entries]
        return max(1, sum(kind.startswith("Multi-Frame") for kind in kinds))
    return getattr(image, "n_frames", 1)


def _notes(image: Image.Image) -> tuple[str, ...]:
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        return ("full ink is taken to be stored as 0, as Adobe does, whose marker is missing",)
    return ()


def _narrowed(file: BinaryIO, image: Image.Image) -> tuple[str, ...]:
    """A note on an image, not yet loaded, of more than 8 bits a sample that Pillow reads as 8."""
    bits = image.info.get("bit_depth", 8)  # of HEIC
    if isinstance(image, PpmImageFile) and image.mode == "RGB":
        args = image.tile[0].args
        bits = args[1].bit_length() if isinstance(args, tuple) else 8  # of the highest value
    elif image.format == "SGI":
        file.seek(_SGI_BYTES_AT)
        bits = 8 * file.read(1)[0]
    elif image.format == "AVIF":
        file.seek(0)
        flags = int.from_bytes(file.read().partition(b"av1C")[2][2:3])
        bits = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return (f"its {bits} bits a sample are read as 8",) if bits > 8 else ()


def _whole_samples(file: BinaryIO, image: Image.Image) -> tuple[np.ndarray, str] | None:
    """All bits of a PNG or JPEG 2000 file, of which Pillow keeps 8 in colour; None for others."""
    if image.format == "PNG":
        file.seek(_PNG_BIT_DEPTH_AT)
        if file.read(1)[0] != 16:
            return None
        import imagecodecs

        file.seek(0)
        samples = imagecodecs.png_decode(file.read())
        samples = samples.reshape(*samples.shape[:2], -1)
    elif image.format == "JPEG2000" and image.mode not in ("P", "PA"):
        from drsformer_jax.data.formats.jpeg2000 import samples_of

        file.seek(0)
        if (found := samples_of(file.read())) is None:
            return None
        samples = found
    else:
        return None
    if image.mode == "CMYK":
        return samples, CMYK
    return samples, GREY if samples.shape[2] <= 2 else RGB


def _samples(image: Image.Image) -> tuple[np.ndarray, str]:
    """uint8 or uint16 `H W C` of a loaded image, and its colour space."""
    if image.mode == "F":
        raise ValueError("floating-point samples have no fixed range; save it with 8 or 16 bits")
    if image.mode == "CMYK":
        return np.asarray(image), CMYK
    if image.mode == "LAB":
        # Pillow hands a* and b* out as two's complement.
        return np.asarray(image) ^ np.array([0, 128, 128], np.uint8), LAB
    if image.mode.startswith("I"):
        # "I" has 32 bits, but is also what 16-bit PGM files are decoded to.
        wide = np.asarray(image)[..., None]
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("samples exceed 16 bits; save it with 8 or 16 bits")
        return wide.astype(np.uint16), GREY
    if image.mode == "1":
        image = image.convert("L")
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    space = GREY if mode == "L" else RGB
    if image.has_transparency_data:
        mode += "A"
    samples = np.asarray(image.convert(mode))
    return samples.reshape(*samples.shape[:2], -1), space
