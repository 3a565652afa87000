"""EXIF, XMP and resolution: true of the upright picture, and otherwise as they were."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from drsformer_jax.data.decoding import Decoded, decode_bytes
from drsformer_jax.data.encoding import FORMATS, encoded
from drsformer_jax.data.formats.metadata import Directory, Metadata, fitted

EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005
ASCII, SHORT, LONG, FRACTION, UNDEFINED, SIGNED_FRACTION = 2, 3, 4, 5, 7, 10
MAKER_NOTE = b"MAKER\0" + bytes(range(256))
ARTIST = "Zoë Müller".encode()
XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:e="http://ns.adobe.com/exif/1.0/"
 xmlns:c="http://ns.google.com/photos/1.0/camera/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 tiff:Orientation="6" e:GPSLatitude="48,8.3N" c:MotionPhoto="1" dc:format="image/jpeg">
 <e:GPSLongitude>11,34.5E</e:GPSLongitude><e:PixelXDimension>21</e:PixelXDimension>
 <dc:creator>Zo\xc3\xab &amp; Co</dc:creator></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def stream(tags: list[tuple[int, int, Any]], offset: int = 8) -> bytes:
    """A directory of TIFF's standard, most significant byte first: tags with type and value.

    The value is that of one number, bytes, or the tags of another directory.
    """
    entries, blocks = b"", b""
    behind = offset + 2 + 12 * len(tags) + 4
    for tag, kind, value in tags:
        if isinstance(value, int):
            value = struct.pack(">H" if kind == SHORT else ">L", value)
        is_directory = isinstance(value, list)
        content = stream(value, behind + len(blocks)) if is_directory else value
        count = 1 if is_directory else len(content) // {SHORT: 2, LONG: 4, 5: 8, 10: 8}.get(kind, 1)
        is_short = len(content) <= 4 and not is_directory
        field = content.ljust(4, b"\0") if is_short else struct.pack(">L", behind + len(blocks))
        entries += struct.pack(">HHL4s", tag, kind, count, field)
        blocks += b"" if is_short else content + bytes(len(content) % 2)
    head = b"MM\0*\0\0\0\x08" if offset == 8 else b""
    return head + struct.pack(">H", len(tags)) + entries + bytes(4) + blocks


def fractions(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}l", *numbers)


def exif(orientation: int = 6) -> bytes:
    """What cameras write, of a picture that lies on its side: 21 wide and 13 high as stored."""
    camera = [
        (0x9003, ASCII, b"2024:01:02 03:04:05\0"),
        (0x9204, SIGNED_FRACTION, fractions(0, 3)),
        (0x927C, UNDEFINED, MAKER_NOTE),
        (0xA002, SHORT, 21),
        (0xA003, SHORT, 13),
        (INTEROP, LONG, [(1, ASCII, b"R98\0")]),
    ]
    place = [(1, ASCII, b"N\0"), (2, FRACTION, fractions(48, 1, 8, 1, 2312, 100))]
    return stream(
        [
            (0x010F, ASCII, b"Canon\0"),
            (0x0112, SHORT, orientation),
            (0x011A, FRACTION, fractions(300, 1)),
            (0x011B, FRACTION, fractions(200, 1)),
            (0x0128, SHORT, 2),
            (0x013B, ASCII, ARTIST + b"\0"),
            (EXIF, LONG, camera),
            (GPS, LONG, place),
        ]
    )


def picture(kind: str, block: bytes = exif(), packet: bytes = XMP) -> bytes:
    """A file of that kind with all this in it."""
    pixels = np.random.default_rng(3).integers(0, 256, (13, 21, 3), np.uint8)
    options: dict[str, Any] = {"exif": b"Exif\0\0" + block}
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    elif kind == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"].load(block)
        options["exif"][700] = packet
    else:
        options["xmp"] = packet
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


PHOTO = Decoded(np.zeros((21, 13, 3), np.uint8))


def told(data: bytes) -> tuple[Image.Exif, Image.Image]:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.getexif(), image


# Of a pointer that Pillow has written to nothing, in TIFF.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("ext", FORMATS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("bits", [8, 16])
def test_all_of_it_goes_from_each_format_to_each(kind: str, ext: str, bits: int) -> None:
    photo = decode_bytes(picture(kind), "")
    assert photo.samples.shape == (21, 13, 3)
    metadata, notes = fitted(photo.metadata, 21, 13)
    assert notes == ()
    samples = photo.samples.astype(np.uint16) * 257 if bits == 16 else photo.samples
    data = encoded(Decoded(samples), FORMATS[ext], metadata)
    again = decode_bytes(data, "").samples
    assert again.shape == samples.shape
    if FORMATS[ext].is_lossless:
        np.testing.assert_array_equal(again, samples)
    block, image = told(data)
    assert (block[0x010F], block[0x0112], block[0x011A], block[0x011B]) == ("Canon", 1, 200, 300)
    camera = block.get_ifd(EXIF)
    assert (camera[0xA002], camera[0xA003], camera[0x9003]) == (13, 21, "2024:01:02 03:04:05")
    assert camera[0x927C] == MAKER_NOTE
    if kind != "TIFF":  # where Pillow has written a pointer to nothing
        assert block.get_ifd(INTEROP) == {1: "R98"}
    assert block.get_ifd(GPS)[2] == (48, 8, 23.12)
    # Of TIFF and AVIF, Pillow has written the file that is read in its own types and letters.
    if kind not in ("TIFF", "AVIF"):
        raw = Directory.read(io.BytesIO(decode_bytes(data, "").metadata.exif))
        assert raw.tags[0x013B] == ARTIST
        types = raw.below[EXIF].tags.tagtype
        assert (types[0x927C], types[0x9204]) == (UNDEFINED, SIGNED_FRACTION)
    packet = image.info["xmp"]
    assert b'tiff:Orientation="1"' in packet
    assert b"<e:PixelXDimension>13<" in packet
    assert b"e:GPSLatitude" in packet
    assert "Zoë &amp; Co".encode() in packet
    assert b"MotionPhoto" not in packet
    if ext in ("png", "jpg", "tiff"):
        np.testing.assert_allclose(list(map(float, image.info["dpi"])), (200, 300), atol=0.01)


def test_location_alone_is_left_out() -> None:
    metadata, _ = fitted(decode_bytes(picture("JPEG"), "").metadata, 21, 13, location=False)
    block = Image.Exif()
    block.load(metadata.exif)
    assert GPS not in block
    assert block.get_ifd(EXIF)[0x927C] == MAKER_NOTE
    assert b"GPS" not in metadata.xmp
    assert b"dc:creator" in metadata.xmp
    assert fractions(2312, 100) not in metadata.exif


def test_the_thumbnail_is_left_out() -> None:
    block = exif()
    (count,) = struct.unpack_from(">H", block, 8)
    link = 10 + 12 * count
    block = block[:link] + struct.pack(">L", len(block)) + block[link + 4 :]
    second = stream([(0x0201, LONG, len(block) + 30), (0x0202, LONG, 9)], len(block))
    block += second + b"THUMBNAIL"
    assert 0x0201 in told(picture("JPEG", block))[0].get_ifd(ExifTags.IFD.IFD1)
    metadata, notes = fitted(Metadata(block), 21, 13)
    assert notes == ()
    assert told(encoded(PHOTO, FORMATS["jpg"], metadata))[0].get_ifd(ExifTags.IFD.IFD1) == {}
    assert b"THUMBNAIL" not in metadata.exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("block", "said"),
    [
        (b"nonsense, and no TIFF stream", "EXIF is damaged and left out"),
        (exif()[:-40], "EXIF is damaged: what can be read of it is kept"),
        (exif()[:50], "EXIF is damaged: what can be read of it is kept"),
    ],
    ids=["nonsense", "short", "very short"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_harm_the_picture(kind: str, block: bytes, said: str) -> None:
    photo = decode_bytes(picture(kind, block), "")
    metadata, notes = fitted(photo.metadata, *photo.samples.shape[:2])
    assert notes == (said,)
    assert photo.notes == ()
    decode_bytes(encoded(PHOTO, FORMATS["png"], metadata), "")


def test_damaged_exif_of_avif_and_tiff_is_noted_by_their_decoders() -> None:
    whole = picture("AVIF")
    photo = decode_bytes(whole.replace(b"Exif\0\0MM", b"Exif\0\0??"), "")
    assert photo.notes == ("EXIF is damaged and left out",)
    np.testing.assert_array_equal(photo.samples, decode_bytes(whole, "").samples)
    whole = picture("TIFF")
    # The type of the pointer to EXIF: text, where there is to be a number.
    at = whole.index(struct.pack("<HH", EXIF, LONG))
    photo = decode_bytes(whole[:at] + struct.pack("<HH", EXIF, ASCII) + whole[at + 4 :], "")
    assert photo.notes == ("EXIF is damaged and left out",)


@pytest.mark.parametrize(
    "packet",
    [b"<x:xmpmeta", b"<!DOCTYPE x [<!ENTITY a 'aaa'>]><x>&a;</x>", b"<x>\xff</x>"],
    ids=["short", "entities", "letters"],
)
def test_damaged_xmp_is_left_out(packet: bytes) -> None:
    metadata, notes = fitted(Metadata(exif(), packet), 21, 13)
    assert notes == ("XMP is damaged and left out",)
    assert (metadata.xmp, bool(metadata.exif)) == (b"", True)


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 1.0), (1e9, 300.0)])
def test_a_resolution_that_is_none_is_left_out(dpi: tuple[float, float]) -> None:
    assert fitted(Metadata(dpi=dpi), 21, 13) == (Metadata(), ())
