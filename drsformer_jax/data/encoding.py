"""Decoded images to files: PNG, JPEG, WebP, AVIF and TIFF, with what is told of the picture."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from drsformer_jax.data.decoding import Decoded
from drsformer_jax.data.formats.colour import in_8_bits
from drsformer_jax.data.formats.metadata import (
    NO_METADATA,
    Directory,
    Metadata,
    exif_alone,
    marked,
)
from drsformer_jax.errors import UserError, words_of
from drsformer_jax.files import write_whole

DEFAULT_QUALITY = 95
# Pillow's names for 8 bits, and colour types of the PNG standard, by the number of channels.
_EIGHT_BIT_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_METRES_PER_INCH = 0.0254
_PNG_HEADER = 33  # bytes of the signature and the chunk IHDR
_Tag = ExifTags.Base
_XMP = 700


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file that is written.

    Attributes:
      name: of people; in capitals, Pillow's.
      suffixes: of its files.
      is_lossless: every sample is kept, of 16 bits, too.
      has_alpha, has_grey: as a kind of its own, not as three equal channels.
      longest_side: in pixels.
      longest_block: of EXIF or XMP, in bytes.
    """

    name: str
    suffixes: tuple[str, ...]
    is_lossless: bool = False
    has_alpha: bool = True
    has_grey: bool = True
    longest_side: int = 2**31 - 1
    longest_block: int = 2**31 - 1

    def losses(self, photo: Decoded, metadata: Metadata) -> tuple[str, ...]:
        """What `encoded` will have to leave out, a line each.

        Raises:
          UserError: this format cannot hold the image.
        """
        height, width, channels = photo.samples.shape
        if max(height, width) > self.longest_side:
            raise UserError(
                f"{width} x {height} pixels are too many for {self.name}, which has at most "
                f"{self.longest_side:,} a side: write png or tiff"
            )
        if channels in (2, 4) and not self.has_alpha:
            raise UserError(
                f"has transparency, which {self.name} cannot hold: write png, webp, avif or tiff"
            )
        notes = []
        if photo.samples.dtype == np.uint16 and not self.is_lossless:
            notes.append(f"16 bits a sample become 8 in {self.name}; png and tiff keep them")
        if photo.icc_profile and not self.keeps_profile(photo):
            notes.append(f"its profile for grey is left out, for {self.name} stores it as colour")
        for kind, block in (("EXIF", metadata.exif), ("XMP", metadata.xmp)):
            if len(block) > self.longest_block:
                notes.append(
                    f"{kind} of {len(block):,} bytes is too long for {self.name}: left out"
                )
        return tuple(notes)

    def keeps_profile(self, photo: Decoded) -> bool:
        """Whether the samples in the file are of the kind that the colour profile describes."""
        channels = photo.samples.shape[2]
        # Of grey with alpha Pillow makes colour, except where we write the file ourselves.
        return self.is_lossless or channels > 2 or (channels == 1 and self.has_grey)


# By their names on the command line.
FORMATS = {
    "png": Format("PNG", (".png",), is_lossless=True),
    "jpg": Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        has_alpha=False,
        longest_side=65_500,
        longest_block=65_500,
    ),
    "webp": Format("WebP", (".webp",), has_grey=False, longest_side=16_383),
    "avif": Format("AVIF", (".avif",), longest_side=65_536),
    "tiff": Format("TIFF", (".tiff", ".tif"), is_lossless=True),
}


def format_of(path: Path) -> Format | None:
    """The format that a file's suffix asks for; None if it is none of those that are written."""
    suffix = path.suffix.lower()
    return next((form for form in FORMATS.values() if suffix in form.suffixes), None)


def write_photo(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes an encoded image; the file appears complete or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def encoded(
    photo: Decoded,
    form: Format,
    metadata: Metadata = NO_METADATA,
    *,
    quality: int = DEFAULT_QUALITY,
) -> bytes:
    """The file of an image.

    Args:
      photo: its own metadata are not written, for they may tell of a turned picture.
      metadata: what is written (`data.formats.metadata.fitted`).
      quality: 1 to 100, of JPEG, WebP and AVIF.

    Raises:
      UserError: the encoder fails.
    """
    if form.name == "PNG":
        return png_bytes(photo, metadata)
    if form.name == "TIFF":
        return _tiff_bytes(photo, metadata)
    options: dict[str, Any] = {"quality": quality}
    if form.name == "WebP":
        # Colours under transparency are kept, too.
        options |= {"exact": True}
    elif photo.samples.shape[2] > 2:
        options |= {"subsampling": "4:4:4"}
    if form.name == "JPEG":
        exif = metadata.exif
        options |= {"dpi": metadata.dpi} if metadata.dpi else {}
    else:
        # The orientation in AVIF's EXIF has Pillow write it anew, which loses types and letters.
        exif = exif_alone(metadata, orientation=form.name != "AVIF")
    if len(exif) <= form.longest_block:
        options["exif"] = marked(exif)
    if len(metadata.xmp) <= form.longest_block:
        options["xmp"] = metadata.xmp
    if photo.icc_profile and form.keeps_profile(photo):
        options["icc_profile"] = photo.icc_profile
    file = io.BytesIO()
    try:
        _image(photo).save(file, form.name.upper(), **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot be written as {form.name} ({words_of(error)})") from error
    return file.getvalue()


def _image(photo: Decoded) -> Image.Image:
    """With 8 bits a sample."""
    samples = np.ascontiguousarray(in_8_bits(photo.samples))
    height, width, channels = samples.shape
    return Image.frombytes(_EIGHT_BIT_MODES[channels], (width, height), samples.tobytes())


def png_bytes(photo: Decoded, metadata: Metadata = NO_METADATA) -> bytes:
    """A PNG file with 8 or 16 bits a sample; arguments as for `encoded`."""
    if photo.samples.dtype == np.uint16:
        file = _deep_png(np.ascontiguousarray(photo.samples), photo.icc_profile)
    else:
        stream = io.BytesIO()
        _image(photo).save(stream, format="PNG", icc_profile=photo.icc_profile)
        file = stream.getvalue()
    return file[:_PNG_HEADER] + _png_chunks(metadata) + file[_PNG_HEADER:]


def _png_chunks(metadata: Metadata) -> bytes:
    """The chunks of the PNG standard that tell the same; they may stand right behind the header."""
    chunks = b""
    if metadata.dpi:
        per_metre = (round(dots / _METRES_PER_INCH) for dots in metadata.dpi)
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        # Neither compressed nor in a language.
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + metadata.xmp)
    return chunks


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


def _tiff_bytes(photo: Decoded, metadata: Metadata) -> bytes:
    """A TIFF file with 8 or 16 bits a sample, which Pillow writes for some kinds only.

    One strip, deflated, of differences to the sample on the left (the standard's predictor 2).
    """
    samples = photo.samples
    height, width, channels = samples.shape
    differences = samples.copy()
    differences[:, 1:] -= samples[:, :-1]
    directory = Directory.of(metadata)
    tags = directory.tags
    if (tags.prefix == b"II") != (sys.byteorder == "little"):
        differences.byteswap(inplace=True)
    strip = zlib.compress(differences.tobytes())
    directory.set_long(_Tag.ImageWidth, width)
    directory.set_long(_Tag.ImageLength, height)
    tags[_Tag.BitsPerSample] = (samples.dtype.itemsize * 8,) * channels
    tags[_Tag.Compression] = 8  # deflate
    tags[_Tag.PhotometricInterpretation] = 2 if channels > 2 else 1  # RGB, or 0 as black
    tags[_Tag.SamplesPerPixel] = channels
    tags[_Tag.RowsPerStrip] = height
    tags[_Tag.StripOffsets] = 0  # behind the directory, which adds where that is
    tags[_Tag.StripByteCounts] = len(strip)
    tags[_Tag.Predictor] = 2
    if channels in (2, 4):
        tags[_Tag.ExtraSamples] = 2  # alpha, not premultiplied
    if photo.icc_profile:
        tags[_Tag.InterColorProfile] = photo.icc_profile
    if metadata.xmp:
        tags[_XMP] = metadata.xmp
    return directory.tobytes(strip)
