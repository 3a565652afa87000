"""Every kind of image file a user may have, decoded to its own samples."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from drsformer_jax.data.decoding import decode_bytes, decode_image
from drsformer_jax.errors import UserError

ORIENTATION = 0x0112
XMP_UUID = "be7acfcb97a942e89c71999491e3afac"
HEIGHT, WIDTH = 5, 7


def samples(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    highest = np.iinfo(dtype).max
    shape = (HEIGHT, WIDTH, channels)
    return np.random.default_rng(1).integers(0, highest, shape, dtype, endpoint=True)


def deep_png(pixels: np.ndarray, extra: bytes = b"") -> bytes:
    """A 16-bit PNG without filters, from the standard; `extra` chunks before the pixels."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block.tobytes()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_8_bit_samples_are_kept(mode: str, channels: int, tmp_path: Path) -> None:
    pixels = samples(channels)
    path = tmp_path / "image.png"
    Image.frombytes(mode, (WIDTH, HEIGHT), pixels.tobytes()).save(path)
    decoded = decode_image(path).samples
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_every_bit(channels: int, tmp_path: Path) -> None:
    pixels = samples(channels, np.uint16)
    path = tmp_path / "image.png"
    path.write_bytes(deep_png(pixels))
    decoded = decode_image(path).samples
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_keeps_every_bit(
    channels: int, compression: str | None, byteorder: str, tmp_path: Path
) -> None:
    pixels = samples(channels, np.uint16)
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path,
        pixels if channels > 1 else pixels[..., 0],
        byteorder=byteorder,
        compression=compression,
        photometric="rgb" if channels > 1 else "minisblack",
        extrasamples=["unassalpha"] if channels == 4 else None,
    )
    np.testing.assert_array_equal(decode_image(path).samples, pixels)


def test_16_bit_pgm_keeps_every_bit(tmp_path: Path) -> None:
    pixels = samples(1, np.uint16)
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + pixels.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode_image(path).samples, pixels)


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [4, 9, 12, 16])
def test_jpeg_2000_keeps_every_bit(bits: int, channels: int, form: str, tmp_path: Path) -> None:
    highest = 2**bits - 1
    stored = (samples(channels, np.uint16) & highest).astype(np.uint8 if bits < 8 else np.uint16)
    stored[0, 0] = highest
    path = tmp_path / "image.jp2"
    pixels = stored if channels > 1 else stored[..., 0]
    path.write_bytes(
        imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, reversible=True, codecformat=form)
    )
    decoded = decode_image(path).samples
    whole = 255 if bits < 8 else 65535
    assert decoded.dtype == (np.uint8 if bits < 8 else np.uint16)
    np.testing.assert_array_equal(decoded, np.rint(stored * (whole / highest)))


def test_signed_jpeg_2000_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.jp2"
    path.write_bytes(imagecodecs.jpeg2k_encode(samples(3, np.uint16).view(np.int16)))
    with pytest.raises(UserError, match=r"image\.jp2.*signed"):
        decode_image(path)


def test_what_jpeg_2000_tells_is_read(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "image.jp2"
    pixels = samples(3)
    Image.fromarray(pixels).save(path, irreversible=False)
    data = path.read_bytes()
    blocks = b"JpgTiffExif->JP2" + exif(6)[6:], bytes.fromhex(XMP_UUID) + b"<x/>"

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    # In the place of the box that says sRGB.
    start = data.index(b"colr") - 4
    end = start + int.from_bytes(data[start : start + 4])
    colour = box(b"colr", b"\2\0\0" + profile)
    around = data.index(b"jp2h") - 4
    length = int.from_bytes(data[around : around + 4]) + len(colour) - (end - start)
    data = (
        data[:around] + struct.pack(">I", length) + data[around + 4 : start] + colour + data[end:]
    )
    codestream = data.index(b"jp2c") - 4
    told = b"".join(box(b"uuid", block) for block in blocks)
    path.write_bytes(data[:codestream] + told + data[codestream:])
    decoded = decode_image(path)
    assert decoded.icc_profile == profile
    assert decoded.metadata.exif == exif(6)[6:]
    assert decoded.metadata.xmp == b"<x/>"
    np.testing.assert_array_equal(decoded.samples, pixels.swapaxes(0, 1)[:, ::-1])
    # Boxes that end beyond the file are damage, and no reason to refuse the picture.
    path.write_bytes(data + struct.pack(">I4s", 99, b"uuid"))
    assert decode_image(path).icc_profile == profile


def test_bits_that_are_not_read_are_told(tmp_path: Path) -> None:
    deep, plain = samples(3, np.uint16), samples(3)
    sgi = struct.pack(">HBBHHHH", 474, 0, 2, 3, WIDTH, HEIGHT, 3).ljust(512, b"\0")
    contents = {
        "10 bits.avif": imagecodecs.avif_encode(deep >> 6, level=100, bitspersample=10),
        "12 bits.avif": imagecodecs.avif_encode(deep >> 4, level=100, bitspersample=12),
        "16 bits.ppm": b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes(),
        "16 bits.sgi": sgi + deep.transpose(2, 0, 1).astype(">u2").tobytes(),
        "8 bits.avif": imagecodecs.avif_encode(plain, level=100),
        "8 bits.ppm": b"P6 %d %d 200\n" % (WIDTH, HEIGHT) + (plain // 2).tobytes(),
    }
    for name, data in contents.items():
        bits = name.partition(" ")[0]
        expected = () if bits == "8" else (f"its {bits} bits a sample are read as 8",)
        assert decode_bytes(bytes(data), name).notes == expected, name


@pytest.mark.parametrize(("channels", "colour"), [(1, (7,)), (3, (7, 8, 9))])
def test_16_bit_transparent_colour_becomes_alpha(
    channels: int, colour: tuple[int, ...], tmp_path: Path
) -> None:
    pixels = samples(channels, np.uint16)
    pixels[2, 3] = colour
    path = tmp_path / "image.png"
    path.write_bytes(deep_png(pixels, chunk(b"tRNS", struct.pack(f">{channels}H", *colour))))
    decoded = decode_image(path).samples
    np.testing.assert_array_equal(decoded[..., :-1], pixels)
    transparent = np.argwhere(decoded[..., -1] == 0)
    assert transparent.tolist() == [[2, 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8 bits", "16 bits grey", "16 bits RGB", "16 bits LA", "tiff"])
def test_exif_orientation_is_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    # The standard's table: where row 0 and column 0 of the stored image are seen.
    def upright(stored: np.ndarray) -> np.ndarray:
        turned = stored.swapaxes(0, 1) if orientation >= 5 else stored
        rows, columns = {
            1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1),
            5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
        }[orientation]  # fmt: skip
        return turned[::rows, ::columns]

    path = tmp_path / ("image.tif" if kind == "tiff" else "image.png")
    if kind in ("8 bits", "tiff"):
        pixels = samples(3)
        block = Image.Exif()
        block[ORIENTATION] = orientation
        Image.fromarray(pixels).save(path, exif=block)
    else:
        channels = {"16 bits grey": 1, "16 bits RGB": 3, "16 bits LA": 2}[kind]
        pixels = samples(channels, np.uint16)
        path.write_bytes(deep_png(pixels, chunk(b"eXIf", exif(orientation)[6:])))
    np.testing.assert_array_equal(decode_image(path).samples, upright(pixels))


def test_palettes_become_rgb_or_rgba(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(path)
    assert decode_image(path).samples[0, 0].tolist() == [200, 100, 50]
    palette.putpixel((3, 2), 0)
    palette.save(path, transparency=0)
    decoded = decode_image(path).samples
    assert decoded[0, 0].tolist() == [200, 100, 50, 255]
    assert decoded[2, 3, 3] == 0


def test_bilevel_becomes_grey(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("1", (WIDTH, HEIGHT), 1).save(path)
    np.testing.assert_array_equal(
        decode_image(path).samples, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    )


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(path, quality=95)
    decoded = decode_image(path).samples
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(decoded[0, 0], [255, 0, 0], atol=6)


def test_profile_is_kept_only_where_it_fits(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "image.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, icc_profile=profile)
    assert decode_image(path).icc_profile == profile
    Image.new("L", (WIDTH, HEIGHT)).save(path, icc_profile=profile)
    assert decode_image(path).icc_profile is None


def test_first_frame_of_an_animation_and_their_number(tmp_path: Path) -> None:
    path = tmp_path / "image.gif"
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    decoded = decode_image(path)
    assert decoded.frames == 3
    assert decoded.notes == ("the first of 3 images only",)
    assert decoded.samples[0, 0, :3].tolist() == [255, 0, 0]


def test_previews_in_a_phones_jpeg_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    picture = Image.new("RGB", (WIDTH, HEIGHT), "red")
    picture.save(path, format="MPO", save_all=True, append_images=[picture.resize((3, 2))])
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert decode_image(path).notes == ()
    # Two views of a stereo camera are two pictures: both of type 0x020002 in the table of images.
    content = bytearray(path.read_bytes())
    first = content.index(struct.pack("<L", 0x030000), content.index(struct.pack("<H", 0xB002)))
    for entry in (first, first + 16):
        content[entry : entry + 4] = struct.pack("<L", 0x020002)
    path.write_bytes(content)
    assert decode_image(path).notes == ("the first of 2 images only",)


def test_undecodable_files_are_users_errors_that_name_them(tmp_path: Path) -> None:
    whole = deep_png(samples(3, np.uint16))
    contents = {
        "text.png": b"no image",
        "empty.jpg": b"",
        "short.png": whole[: len(whole) - 40],
        "header.png": whole[:20],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "wide.tif")
    for name in [*contents, "float.tif", "wide.tif", "missing.png"]:
        with pytest.raises(UserError, match=name):
            decode_image(tmp_path / name)
    with pytest.raises(UserError, match="folder"):
        decode_image(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_a_file_in_memory_is_decoded_as_on_disk(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    block = exif(6)
    Image.fromarray(samples(3)).save(path, exif=block)
    of_path, of_bytes = decode_image(path), decode_bytes(path.read_bytes(), "anything")
    assert of_bytes.samples.shape == (WIDTH, HEIGHT, 3)
    np.testing.assert_array_equal(of_bytes.samples, of_path.samples)
    path.write_bytes(deep_png(samples(3, np.uint16)))
    np.testing.assert_array_equal(
        decode_bytes(path.read_bytes(), "anything").samples, samples(3, np.uint16)
    )


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no files of open pipes")
def test_a_pipe_is_told() -> None:
    reading, writing = os.pipe()
    os.write(writing, deep_png(samples(3, np.uint16)))
    os.close(writing)
    with pytest.raises(UserError, match=f"^/dev/fd/{reading}: is a pipe, not a file"):
        decode_image(f"/dev/fd/{reading}")
    os.close(reading)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_that_nobody_writes_into_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: is a pipe, not a file"):
        decode_image(tmp_path / "pipe")


def test_a_damaged_file_in_memory_has_a_name() -> None:
    with pytest.raises(UserError, match=r"^photo: not an image in a known format$"):
        decode_bytes(b"hello", "photo")
