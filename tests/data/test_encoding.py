"""Images as files: what each format keeps, and what it cannot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from drsformer_jax.data.decoding import Decoded, decode_bytes
from drsformer_jax.data.encoding import FORMATS, encoded, write_photo
from drsformer_jax.data.formats.metadata import NO_METADATA, Metadata
from drsformer_jax.errors import UserError

EMPTY_EXIF = b"MM\0*\0\0\0\x08\0\0\0\0\0\0"


def samples(channels: int, dtype: Any, size: tuple[int, int] = (13, 21)) -> np.ndarray:
    highest = np.iinfo(dtype).max
    return np.random.default_rng(2).integers(0, highest, (*size, channels), dtype, endpoint=True)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (13, 21)])
@pytest.mark.parametrize("ext", ["png", "tiff"])
def test_lossless_files_are_read_back(
    ext: str, channels: int, dtype: Any, size: tuple[int, int]
) -> None:
    pixels = samples(channels, dtype, size)
    data = encoded(Decoded(pixels), FORMATS[ext])
    decoded = decode_bytes(data, "").samples
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, pixels)
    # Pillow knows no 16 bits with alpha or in colour; of one sample it checks them.
    if dtype == np.uint8 or channels == 1:
        np.testing.assert_array_equal(
            np.asarray(opened(data)), pixels.squeeze(2) if channels == 1 else pixels
        )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ext", ["jpg", "webp", "avif"])
def test_photographs_come_close_at_the_default_quality(ext: str, channels: int) -> None:
    ramp = np.linspace(0, 65535, 32, dtype=np.uint16)
    pixels = np.stack([np.add.outer(ramp // 2, ramp // 3)] * channels, axis=2)
    form = FORMATS[ext]
    if ext == "jpg" and channels in (2, 4):
        with pytest.raises(UserError, match="has transparency, which JPEG cannot hold: write png"):
            form.losses(Decoded(pixels), NO_METADATA)
        return
    assert form.losses(Decoded(pixels), NO_METADATA) == (
        f"16 bits a sample become 8 in {form.name}; png and tiff keep them",
    )
    decoded = opened(encoded(Decoded(pixels), form)).convert(
        ["L", "LA", "RGB", "RGBA"][channels - 1]
    )
    difference = np.abs(np.asarray(decoded).reshape(pixels.shape) * 257.0 - pixels)
    assert difference.max() < 8 * 257


@pytest.mark.parametrize("ext", ["jpg", "avif"])
def test_colour_keeps_its_resolution(ext: str) -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    decoded = decode_bytes(encoded(Decoded(stripes), FORMATS[ext]), "").samples
    assert np.abs(decoded.astype(int) - stripes).max() < 30
    coarse = encoded(Decoded(samples(3, np.uint8)), FORMATS[ext], quality=5)
    assert len(coarse) < len(encoded(Decoded(samples(3, np.uint8)), FORMATS[ext])) / 2


@pytest.mark.parametrize("ext", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_profile_is_written_where_it_describes_the_samples(ext: str, channels: int) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    form, photo = FORMATS[ext], Decoded(samples(channels, np.uint8), profile)
    if (ext, channels) == ("jpg", 2):
        return
    is_left_out = (ext, channels) in {("webp", 1), ("webp", 2), ("avif", 2)}
    assert len(form.losses(photo, NO_METADATA)) == is_left_out
    assert opened(encoded(photo, form)).info.get("icc_profile") == (
        None if is_left_out else profile
    )


def test_16_bit_png_files_are_valid_to_another_reader() -> None:
    pixels = samples(3, np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = Metadata(EMPTY_EXIF, b"<x/>", (300, 300))
    data = encoded(Decoded(pixels, profile), FORMATS["png"], metadata)
    Image.open(io.BytesIO(data)).verify()  # checks the CRC of every chunk
    assert opened(data).info.keys() >= {"exif", "xmp", "dpi", "icc_profile"}


def test_what_is_too_much_for_a_format_is_said() -> None:
    wide = Decoded(np.zeros((1, 17_000, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"17000 x 1 pixels are too many for WebP, .* 16,383 a side"
    ):
        FORMATS["webp"].losses(wide, NO_METADATA)
    photo, form = Decoded(samples(3, np.uint8)), FORMATS["jpg"]
    for length in (65_500, 65_501):
        metadata = Metadata(EMPTY_EXIF.ljust(length, b"\0"), b"x" * length)
        notes = form.losses(photo, metadata)
        assert notes == tuple(
            f"{kind} of 65,501 bytes is too long for JPEG: left out"
            for kind in ("EXIF", "XMP")
            if length == 65_501
        )
        has = {"exif", "xmp"} & opened(encoded(photo, form, metadata)).info.keys()
        assert has == (set() if notes else {"exif", "xmp"})


def test_an_encoder_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match=r"cannot be written as AVIF .encoder error -2"):
        encoded(Decoded(samples(3, np.uint8)), FORMATS["avif"])


def test_folder_that_cannot_be_written_to_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"photo\.png: cannot be written"):
        write_photo(tmp_path / "missing" / "photo.png", b"data")


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "photo.png").mkdir()
    with pytest.raises(UserError):
        write_photo(tmp_path / "photo.png", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
