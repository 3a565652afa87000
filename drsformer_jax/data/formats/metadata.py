"""What files tell of a photograph beside its pixels and colours: EXIF, XMP and the resolution."""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Callable
from typing import BinaryIO

from PIL import ExifTags, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from drsformer_jax.data.formats.xmp import fitted_xmp

# Of damaged EXIF, Pillow complains wherever it looks for the orientation; `fitted` tells it once.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")

_Tag = ExifTags.Base
_EXIF, _GPS, _INTEROP = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop
# Which directories each one points to; None is the first.
_BELOW: dict[int | None, tuple[int, ...]] = {None: (_EXIF, _GPS), _EXIF: (_INTEROP,)}
_PREFIX = b"Exif\0\0"
_BIG_TIFF = 43

# Tags of the first directory, in the numbers that TIFF gave out, that tell of the picture; the
# others there say how a file stores its pixels.
_OF_TIFF = range(254, 700)
_OF_THE_PICTURE = frozenset(
    {
        *(_Tag.ImageWidth, _Tag.ImageLength, _Tag.Orientation),
        *(_Tag.XResolution, _Tag.YResolution, _Tag.ResolutionUnit),
        *(_Tag.DocumentName, _Tag.ImageDescription, _Tag.PageName),
        *(_Tag.Make, _Tag.Model, _Tag.Software, _Tag.HostComputer),
        *(_Tag.DateTime, _Tag.Artist, _Tag.WhitePoint, _Tag.PrimaryChromaticities),
        *(_Tag.YCbCrCoefficients, _Tag.YCbCrPositioning, _Tag.ReferenceBlackWhite),
    }
)
# XMP, IPTC, Photoshop's resources and layers, the colour profile: blocks of their own.
_OTHER_BLOCKS = frozenset({700, 33723, 34377, 34675, 37724})


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file tells of its picture.

    Attributes:
      exif: EXIF as a TIFF stream, without the mark in front that JPEG has; empty: none.
      xmp: an XMP packet; empty: none.
      dpi: pixels an inch, across and down.
    """

    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


NO_METADATA = Metadata()


@dataclasses.dataclass
class Directory:
    """A directory of EXIF or TIFF tags, and those it points to, by the tags that do."""

    tags: ImageFileDirectory_v2
    below: dict[int, Directory]

    @staticmethod
    def read(file: BinaryIO, offset: int | None = None, group: int | None = None) -> Directory:
        """Reads a directory at `offset` of a TIFF stream, by default the first one.

        Tags that say how pixels are stored are left out of the first directory. Types stay, and
        texts stay as their bytes, whatever the encoding.

        Raises:
          Exception: Pillow's, for what is no TIFF stream; of damaged tags it warns.
        """
        file.seek(0)
        head = file.read(16)
        is_big = _BIG_TIFF in head[2:4]
        # Pillow takes BigTIFF of this byte order for TIFF.
        stored = ImageFileDirectory_v2(head[: 16 if head[2] == _BIG_TIFF else 8], group=group)
        stored._bigtiff = is_big
        file.seek(stored.next if offset is None else offset)
        stored.load(file)
        tags = ImageFileDirectory_v2(prefix=stored.prefix, group=group)
        directory = Directory(tags, {})
        for tag in stored:
            if tag in _BELOW.get(group, ()):
                directory.below[tag] = Directory.read(file, stored[tag], tag)
            elif group is not None or _is_of_the_picture(tag):
                value = stored[tag]
                tags.tagtype[tag] = stored.tagtype[tag]
                # Pillow would write the letters of ASCII only.
                tags[tag] = value.encode("latin-1") if isinstance(value, str) else value
        return directory

    @staticmethod
    def of(metadata: Metadata) -> Directory:
        """The directory of `metadata.exif`, with the resolution if it has none; may be empty."""
        if metadata.exif:
            directory = Directory.read(io.BytesIO(metadata.exif))
        else:
            directory = Directory(ImageFileDirectory_v2(), {})
        if metadata.dpi and _Tag.XResolution not in directory.tags:
            directory.tags[_Tag.XResolution], directory.tags[_Tag.YResolution] = metadata.dpi
            directory.tags[_Tag.ResolutionUnit] = 2  # inch
        return directory

    def tobytes(self, pixels: bytes = b"") -> bytes:
        """A TIFF stream; `pixels` stand where tag StripOffsets, if it is there, will say."""
        is_little = self.tags.prefix == b"II"
        head = b"II*\0\x08\0\0\0" if is_little else b"MM\0*\0\0\0\x08"
        return head + self._bytes(len(head), pixels)

    def _bytes(self, offset: int, pixels: bytes = b"") -> bytes:
        pixels += b"\0" * (len(pixels) % 2)
        for tag in self.below:
            self.set_long(tag, 0)
        end = offset + len(self.tags.tobytes(offset)) + len(pixels)
        blocks = b""
        for tag, directory in self.below.items():
            self.set_long(tag, end + len(blocks))
            blocks += directory._bytes(end + len(blocks))
        return bytes(self.tags.tobytes(offset)) + pixels + blocks

    def set_long(self, tag: int, value: int) -> None:
        """Has a tag hold a number of 32 bits, whatever it held before."""
        self.tags.tagtype[tag] = TiffTags.LONG
        self.tags[tag] = value

    @property
    def is_turned(self) -> bool:
        """Whether rows of the stored image are columns of the upright one."""
        return self.tags.get(_Tag.Orientation, 1) in (5, 6, 7, 8)

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels an inch, across and down."""
        scale = {2: 1.0, 3: 2.54}.get(self.tags.get(_Tag.ResolutionUnit, 2))
        across, down = (self.tags.get(tag) for tag in (_Tag.XResolution, _Tag.YResolution))
        return (float(across) * scale, float(down) * scale) if scale and across and down else None

    def fit(self, height: int, width: int) -> None:
        """Has all tags tell the truth of an upright image of that size."""
        first, across, down = self.tags, _Tag.XResolution, _Tag.YResolution
        if self.is_turned and across in first and down in first:
            first[across], first[down] = first[down], first[across]
        if _Tag.Orientation in first:
            first[_Tag.Orientation] = 1
        exif = self.below.get(_EXIF, self)
        for directory, tag, size in (
            (self, _Tag.ImageWidth, width),
            (self, _Tag.ImageLength, height),
            (exif, _Tag.ExifImageWidth, width),
            (exif, _Tag.ExifImageHeight, height),
        ):
            if tag in directory.tags:
                directory.set_long(tag, size)


def _is_of_the_picture(tag: int) -> bool:
    return tag in _OF_THE_PICTURE or not (tag in _OF_TIFF or tag in _OTHER_BLOCKS)


def exif_of_tiff(file: BinaryIO, offset: int) -> bytes:
    """EXIF of an image in a TIFF or BigTIFF file, whose directory lies at `offset`."""
    return Directory.read(file, offset).tobytes()


def damaged(kind: str) -> str:
    """The note on EXIF or XMP of which nothing can be read."""
    return f"{kind} is damaged and left out"


def fitted(
    metadata: Metadata, height: int, width: int, *, location: bool = True
) -> tuple[Metadata, tuple[str, ...]]:
    """Metadata of a file made true of its upright image, which has that size; and notes.

    The orientation is 1, sizes are set where they are told, thumbnails and what tells of other
    parts of the file are left out. A maker's note stays as it is. What is damaged is left out.

    Args:
      location: keep where it was taken: the GPS directory of EXIF, `exif:GPS*` of XMP.
    """
    notes: list[str] = []
    dpi = _plausible(metadata.dpi)

    def exif() -> bytes:
        nonlocal dpi
        directory = Directory.read(io.BytesIO(metadata.exif))
        # First, for of EXIF's two numbers Pillow tells one twice where JPEG itself has none.
        dpi = _plausible(directory.dpi) or dpi
        if directory.is_turned and dpi:
            dpi = dpi[1], dpi[0]
        directory.fit(height, width)
        if not location:
            directory.below.pop(_GPS, None)
        return directory.tobytes()

    def guarded(kind: str, block: bytes, work: Callable[[], bytes]) -> bytes:
        if not block:
            return b""
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            try:
                done = work()
            except Exception:
                # On damaged blocks Pillow and expat raise SyntaxError, struct.error and more.
                notes.append(damaged(kind))
                return b""
        if complaints:
            notes.append(f"{kind} is damaged: what can be read of it is kept")
        return done

    blocks = (
        guarded("EXIF", metadata.exif, exif),
        guarded("XMP", metadata.xmp, lambda: fitted_xmp(metadata.xmp, height, width, location)),
    )
    return Metadata(*blocks, dpi), tuple(notes)


def _plausible(dpi: tuple[float, float] | None) -> tuple[float, float] | None:
    """Numbers that all formats can tell, or None."""
    return dpi if dpi and all(math.isfinite(x) and 1 <= x <= 65535 for x in dpi) else None


def marked(exif: bytes) -> bytes:
    """EXIF with the mark that JPEG's has in front."""
    return _PREFIX + exif if exif else b""


def unmarked(exif: bytes) -> bytes:
    """EXIF without that mark, which some programs write twice."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    return exif


def exif_alone(metadata: Metadata, *, orientation: bool = True) -> bytes:
    """EXIF for files that tell the resolution nowhere else, with or without the orientation."""
    directory = Directory.of(metadata)
    if not orientation:
        directory.tags.pop(_Tag.Orientation, None)
    return directory.tobytes() if len(directory.tags) or directory.below else b""
