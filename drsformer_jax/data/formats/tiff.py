"""TIFF files: whatever bits, planes, tiles, compression and colours they store.

tifffile reads them; Pillow knows some kinds only, and of some it makes other pictures.
"""

from __future__ import annotations

import logging
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile

from drsformer_jax.data.formats.colour import (
    CHANNELS,
    CMYK,
    GREY,
    LAB,
    RGB,
    Limit,
    Stored,
    check_pixels,
    over_whole_range,
    without_premultiplication,
)
from drsformer_jax.data.formats.metadata import Metadata, damaged, exif_of_tiff

# What keeps a file from being decoded is raised; what is logged besides is of no use to a user.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_PHOTOMETRIC = tifffile.PHOTOMETRIC
_SPACES: dict[int, str] = {
    _PHOTOMETRIC.MINISWHITE: GREY,
    _PHOTOMETRIC.MINISBLACK: GREY,
    _PHOTOMETRIC.RGB: RGB,
    _PHOTOMETRIC.PALETTE: RGB,
    _PHOTOMETRIC.SEPARATED: CMYK,
    _PHOTOMETRIC.YCBCR: RGB,  # tifffile and libtiff decode it to RGB
    _PHOTOMETRIC.CIELAB: LAB,
    _PHOTOMETRIC.ICCLAB: LAB,
}
_CMYK_INKS = 1


def read_tiff(file: BinaryIO, limit: Limit = None) -> Stored:
    """Reads the first image of a TIFF file that is no preview of another one.

    Raises:
      ValueError: samples or colours that have no 8 or 16 bits; more than `limit`.
      Exception: tifffile's and imagecodecs' own, for damaged files.
    """
    with tifffile.TiffFile(file) as tiff:
        pages = [
            page
            for page in tiff.pages
            # is_reduced: a smaller version of another image; is_mask: its transparency.
            if isinstance(page, tifffile.TiffPage) and not (page.is_reduced or page.is_mask)
        ]
        if not pages:
            raise ValueError(
                "holds no image, at most previews; a camera's raw file has to be developed first"
            )
        page = pages[0]
        check_pixels(page.imagewidth, page.imagelength, limit)
        space = _space(page)
        orientation = page.tags.valueof("Orientation", 1)
        notes: tuple[str, ...] = ()
        if _is_for_libtiff(page):
            samples = _by_libtiff(file, page.index, orientation)
        else:
            samples, notes = _in_space(page, space)
        metadata, more = _metadata(file, page)
        return Stored(
            samples,
            space,
            profile=page.iccprofile,
            orientation=orientation,
            frames=len(pages),
            notes=notes + more,
            metadata=metadata,
        )


def _metadata(file: BinaryIO, page: tifffile.TiffPage) -> tuple[Metadata, tuple[str, ...]]:
    """What is told of the picture, and a note if it is damaged, which the picture need not be."""
    exif, dpi = b"", None
    notes: tuple[str, ...] = ()
    try:
        exif = exif_of_tiff(file, page.offset)
    except Exception:
        # As Pillow raises it: SyntaxError, struct.error and more.
        notes = (damaged("EXIF"),)
    inch = tifffile.RESUNIT.INCH
    if "XResolution" in page.tags and page.resolutionunit in (inch, tifffile.RESUNIT.CENTIMETER):
        dpi = page.get_resolution(inch)
    xmp = page.tags.valueof("XMP")
    return Metadata(exif, xmp if isinstance(xmp, bytes) else b"", dpi), notes


def _space(page: tifffile.TiffPage) -> str:
    """The colour space that the samples will have; ValueError if there is none for them."""
    space = _SPACES.get(page.photometric)
    inks = page.tags.valueof("InkSet", _CMYK_INKS)
    if space is None or (space == CMYK and inks != _CMYK_INKS):
        name = getattr(page.photometric, "name", page.photometric)
        what = "inks other than CMYK" if space == CMYK else f"colours of the kind {name}"
        raise ValueError(f"{what} are not read; save it as RGB with 8 or 16 bits")
    return space


def _is_for_libtiff(page: tifffile.TiffPage) -> bool:
    """Whether chroma is stored for several pixels together in a way that tifffile does not know."""
    old_jpeg = page.compression == tifffile.COMPRESSION.OJPEG
    is_ycbcr = page.photometric == _PHOTOMETRIC.YCBCR
    return old_jpeg or (is_ycbcr and page.compression != tifffile.COMPRESSION.JPEG)


def _by_libtiff(file: BinaryIO, index: int, orientation: int) -> np.ndarray:
    """uint8 `H W 3` of an image without transparency, as the file stores its rows."""
    file.seek(0)
    rgb: np.ndarray = imagecodecs.tiff_decode(file.read(), index=index, asrgb=True)[..., :3]
    # libtiff mirrors as the orientation says, but does not turn: undone, for all are turned alike.
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _in_space(page: tifffile.TiffPage, space: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 or uint16 `H W C` of a page: the channels of `space` and alpha; notes on them."""
    # Decoders of JPEG make something of half a file.
    ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
    is_compressed = page.compression != tifffile.COMPRESSION.NONE
    if 0 in page.databytecounts or (is_compressed and max(ends) > page.parent.filehandle.size):
        raise ValueError("truncated: parts of the image are missing")
    planes = page.asarray(squeeze=False)  # separate planes, depth, height, width, samples
    if planes.shape[1] != 1:
        raise ValueError("a volume, not an image")
    stored = np.concatenate(list(planes[:, 0]), axis=2)
    channels = 1 if page.photometric == _PHOTOMETRIC.PALETTE else CHANNELS[space]
    if stored.shape[2] < channels:
        raise ValueError(f"{stored.shape[2]} channels where its colours have {channels}")
    colour, extra = np.split(stored, [channels], axis=2)
    notes: tuple[str, ...] = ()
    if page.photometric == _PHOTOMETRIC.PALETTE:
        if page.colormap is None:
            raise ValueError("its palette is missing")
        colour = _looked_up(colour[..., 0], page.colormap)
    elif space == LAB:
        colour = _encoded_as_icc(colour, page.photometric == _PHOTOMETRIC.CIELAB)
    else:
        colour, notes = over_whole_range(colour, page.bitspersample)
        if page.photometric == _PHOTOMETRIC.MINISWHITE:
            colour = np.iinfo(colour.dtype).max - colour
    alpha, more = _alpha(page, extra)
    if more:
        notes = (*notes, f"{more} further channel{'s' if more > 1 else ''} left out")
    if alpha is None:
        return colour, notes
    alpha, _ = over_whole_range(alpha, page.bitspersample)
    if alpha.dtype != colour.dtype:
        raise ValueError("colours and transparency of different kinds")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
        colour = without_premultiplication(colour, alpha)
    return np.concatenate([colour, alpha], axis=2), notes


def _alpha(page: tifffile.TiffPage, extra: np.ndarray) -> tuple[np.ndarray | None, int]:
    """The channel of transparency as `H W 1`, if there is one, and how many others there are."""
    kinds = list(page.extrasamples)
    if not kinds and page.photometric == _PHOTOMETRIC.RGB and extra.shape[2] == 1:
        # So do Pillow and libtiff read four channels of which nothing is said.
        kinds = [tifffile.EXTRASAMPLE.UNASSALPHA]
    for index, kind in enumerate(kinds[: extra.shape[2]]):
        if kind != tifffile.EXTRASAMPLE.UNSPECIFIED:
            return extra[..., index : index + 1], extra.shape[2] - 1
    return None, extra.shape[2]


def _looked_up(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """uint8 `H W 3` from a palette of shape (3, colours), whose values have 16 bits."""
    # Some programs of old wrote 8 bits.
    entries = palette if palette.max() < 256 else palette >> 8
    return np.moveaxis(entries.astype(np.uint8)[:, indices], 0, -1)


def _encoded_as_icc(samples: np.ndarray, is_signed: bool) -> np.ndarray:
    """L*a*b* in TIFF's encodings as that of ICC profiles, version 4.

    Args:
      samples: `H W 3` with 8 or 16 bits.
      is_signed: a* and b* are two's complement and 16-bit L* ends at 65535 (CIELab); else they are
        shifted by 128 and L* ends at 65280 (ICCLab).
    """
    bits = samples.dtype.itemsize * 8
    if bits not in (8, 16) or samples.dtype.kind == "f":
        raise ValueError("L*a*b* is read with 8 or 16 bits only")
    lab = samples.view(np.dtype(f"u{bits // 8}"))
    if is_signed:
        lab = lab ^ np.array([0, 1 << (bits - 1), 1 << (bits - 1)], lab.dtype)
    if bits == 8:
        return lab
    # One unit of a* or b* is 256 here and 257 there.
    wide = lab.astype(np.uint32)
    icc = np.minimum((wide * 257 + 128) // 256, 65535).astype(np.uint16)
    if is_signed:
        icc[..., 0] = lab[..., 0]
    return icc
