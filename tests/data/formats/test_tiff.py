"""TIFF in all its variety: the right picture, or one line that says why there is none."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from drsformer_jax.data.decoding import decode_image
from drsformer_jax.errors import UserError

HEIGHT, WIDTH = 37, 53


def samples(channels: int, dtype: Any = np.uint16) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels)
    highest = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, highest, shape, dtype, endpoint=True)


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 4, columns * 3, rows + columns], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize(
    "layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 10}, {"bigtiff": True}]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_separate_planes(
    dtype: Any, byteorder: str, layout: dict[str, Any], compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "image.tif"
    for channels in (2, 3, 4):
        pixels = samples(channels, dtype)
        tifffile.imwrite(
            path,
            pixels.transpose(2, 0, 1),
            photometric="minisblack" if channels == 2 else "rgb",
            planarconfig="separate",
            extrasamples=["unassalpha"] if channels != 3 else None,
            byteorder=byteorder,
            compression=compression,
            **layout,
        )
        decoded = decode_image(path)
        assert decoded.samples.dtype == dtype
        np.testing.assert_array_equal(decoded.samples, pixels)
        assert decoded.notes == ()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero(dtype: Any, compression: str | None, byteorder: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    pixels = samples(1, dtype)
    tifffile.imwrite(
        path,
        np.iinfo(dtype).max - pixels[..., 0],
        photometric="miniswhite",
        compression=compression,
        byteorder=byteorder,
    )
    np.testing.assert_array_equal(decode_image(path).samples, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_associated_alpha_is_divided_out(dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    pixels = samples(4, dtype)
    pixels[0, :, 3] = 0
    highest = np.iinfo(dtype).max
    opacity = pixels[..., 3:] / highest
    stored = np.concatenate([np.rint(pixels[..., :3] * opacity), pixels[..., 3:]], axis=2)
    tifffile.imwrite(path, stored.astype(dtype), photometric="rgb", extrasamples=["assocalpha"])
    decoded = decode_image(path).samples
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded[..., 3], pixels[..., 3])
    # What rounding to the stored value left of the colour.
    difference = (decoded[..., :3].astype(float) - pixels[..., :3]) * opacity
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_narrow_samples_span_the_whole_range(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    values = samples(1)[..., 0] >> (16 - bits)
    if bits == 12:
        path.write_bytes(twelve_bits(values))
    else:
        stored = values.astype(bool if bits == 1 else np.uint8)
        tifffile.imwrite(path, stored, photometric="minisblack", bitspersample=bits)
    decoded = decode_image(path).samples
    highest = np.iinfo(decoded.dtype).max
    assert decoded.dtype == (np.uint16 if bits > 8 else np.uint8)
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / (2**bits - 1) * highest))


def twelve_bits(values: np.ndarray) -> bytes:
    """A grey TIFF file from the specification: each row's bits packed, high ones first."""
    bits = (values[..., None] >> np.arange(11, -1, -1)) & 1
    data = np.packbits(bits.reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 258: 12, 259: 1, 262: 1, 277: 1, 278: HEIGHT, 279: len(data)}
    tags[273] = 8 + 2 + 12 * 9 + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + entries + bytes(4) + data


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_palette(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    image = Image.fromarray(smooth()).quantize(16)
    image.save(path, compression=compression)
    np.testing.assert_array_equal(decode_image(path).samples, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw"])
def test_fax(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    black = smooth()[..., 0] > 70
    Image.fromarray(black).save(path, compression=compression)
    np.testing.assert_array_equal(decode_image(path).samples[..., 0], black * np.uint8(255))


@pytest.mark.parametrize("compression", [None, "jpeg", "tiff_lzw"])
def test_ycbcr(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(smooth()).convert("YCbCr").save(path, compression=compression)
    assert np.abs(decode_image(path).samples.astype(int) - smooth()).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "YCbCr"])
def test_orientation(mode: str, orientation: int, tmp_path: Path) -> None:
    """That of the same picture as PNG, whose orientation is checked against the standard."""
    image = Image.fromarray(smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "image.png", exif=exif)
    image.convert(mode).save(tmp_path / "image.tif", exif=exif)
    expected = decode_image(tmp_path / "image.png").samples
    decoded = decode_image(tmp_path / "image.tif").samples
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 3


def test_pages_and_previews(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    pixels = samples(3)
    with tifffile.TiffWriter(path) as file:
        file.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
        file.write(pixels, photometric="rgb")
    decoded = decode_image(path)
    np.testing.assert_array_equal(decoded.samples, pixels)
    assert decoded.notes == ()
    tifffile.imwrite(path, np.stack([pixels, pixels]), photometric="rgb")
    assert decode_image(path).notes == ("the first of 2 images only",)
    tifffile.imwrite(path, pixels, photometric="rgb", subfiletype=1)
    with pytest.raises(UserError, match="previews"):
        decode_image(path)


def test_channels_left_out_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    pixels = samples(5)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified", "unassalpha"])
    decoded = decode_image(path)
    np.testing.assert_array_equal(decoded.samples, pixels[..., [0, 1, 2, 4]])
    assert decoded.notes == ("1 further channel left out",)


def test_wide_samples_that_fit_are_noted_and_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    pixels = samples(1)[..., 0]
    tifffile.imwrite(path, pixels.astype(np.int32))
    decoded = decode_image(path)
    np.testing.assert_array_equal(decoded.samples[..., 0], pixels)
    assert decoded.notes == (
        "signed samples of 32 bits are taken as they are, with 65535 as white",
    )
    for stored, reason in (
        (pixels.astype(np.uint32) * 65537, "exceed 16 bits"),
        (pixels.view(np.int16), "signed samples"),
        ((pixels >> 9).astype(np.int8), "signed samples"),
        (pixels.astype(np.float32), "floating-point"),
        (pixels.astype(np.complex64), "floating-point"),
    ):
        tifffile.imwrite(path, stored, photometric="minisblack")
        with pytest.raises(UserError, match=reason) as error:
            decode_image(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "jpeg"])
@pytest.mark.parametrize("keep", [0.001, 0.1, 0.6, 0.99])
def test_truncated(
    keep: float, compression: str | None, layout: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "image.tif"
    pixels = samples(3, np.uint8 if compression == "jpeg" else np.uint16)
    tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, **layout)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=r"image\.tif") as error:
        decode_image(path)
    assert "\n" not in str(error.value)
