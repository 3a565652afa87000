"""Large images: welcome in files that the user named, refused where a program sets a limit."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, UnidentifiedImageError

from drsformer_jax.data.decoding import decode_image
from drsformer_jax.data.formats.pillow import (
    read_with_pillow,
    size_in_header,
    without_pillows_limit,
)
from drsformer_jax.data.images import read_rgb
from drsformer_jax.errors import UserError

PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "ico"])
def test_pillows_limit_does_not_hold_for_named_files(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"large.{suffix}"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(path).shape == (64, 64, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(UserError, match=r"large\."):  # strangers' files are held to both limits
        decode_image(path, max_pixels=4095)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PILLOWS_LIMIT)
    with pytest.raises(UserError, match=r"large.*64 x 64 pixels are more than the 4,095 allowed"):
        decode_image(path, max_pixels=4095)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_in_the_header_is_that_of_the_upright_image(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (21, 13)).save(path, exif=exif)
    assert size_in_header(path) == decode_image(path).samples.shape[:2]
    # Nothing is decoded; and what is no image is left to the decoder.
    path.write_bytes(path.read_bytes()[:-5])
    assert size_in_header(path) is not None
    path.write_bytes(b"broken")
    assert size_in_header(path) is None


@pytest.mark.parametrize("start", [b"no image", b"\0\0\0\x1cftypisom"])
def test_what_is_no_image_is_not_read_whole(start: bytes) -> None:
    class Film(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 <= size < 100_000
            return super().read(size)

    with pytest.raises(UnidentifiedImageError):
        read_with_pillow(Film(start.ljust(1000)))


def test_180_megapixels(tmp_path: Path) -> None:
    path = tmp_path / "panorama.png"
    Image.new("1", (20_000, 9_000)).save(path)
    assert decode_image(path).samples.shape == (9_000, 20_000, 1)
    assert Image.MAX_IMAGE_PIXELS == PILLOWS_LIMIT


def test_a_limit_is_kept_before_a_tiff_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint16), compression="zlib", photometric="rgb")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="64 x 64 pixels are more than the 100 allowed"):
        decode_image(path, max_pixels=100)


def test_the_limit_comes_back_when_the_last_thread_is_done() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_pillows_limit():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with without_pillows_limit():
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS is None
    leave.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == PILLOWS_LIMIT


def test_what_does_not_fit_in_memory_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (8, 8)).save(path)

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", exhausted)
    with pytest.raises(UserError, match=r"large\.png: too large .* cut it into parts"):
        decode_image(path)
