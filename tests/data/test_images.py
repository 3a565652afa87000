"""read_rgb: every kind of file that a photograph may come as; write_png; list_images."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from drsformer_jax.data import images
from drsformer_jax.data.formats.pillow import picture_suffixes
from drsformer_jax.data.images import list_images, read_rgb, write_png
from drsformer_jax.errors import UserError

WRITTEN = (
    "apng", "avif", "bmp", "dib", "gif", "icns", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg",
    "jpx", "mpo", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "qoi", "rgb", "sgi", "tga", "tif",
    "tiff", "webp",
)  # fmt: skip


def noise(height: int = 9, width: int = 13, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_png16(path: Path, samples: np.ndarray, colour_type: int) -> None:
    """A 16-bit PNG of uint16 `H W C`, which Pillow itself cannot write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    image = noise()
    write_png(tmp_path / "a.png", image)
    result = read_rgb(tmp_path / "a.png")
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    np.testing.assert_array_equal(result, image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_write_png_refuses_other_arrays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "a.png", noise().astype(np.float32))
    with pytest.raises(UserError, match="nowhere"):
        write_png(tmp_path / "nowhere" / "a.png", noise())
    assert not list(tmp_path.iterdir())


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey = noise(channels=1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.dstack([grey] * 3))


def test_bilevel_becomes_black_and_white(tmp_path: Path) -> None:
    grey = noise(channels=1) // 128 * 255
    Image.fromarray(grey).convert("1").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), np.dstack([grey] * 3))


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(noise()).quantize(16)
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_laid_over_white(tmp_path: Path, channels: int) -> None:
    image = noise(channels=channels)
    image[0, :, -1] = 255
    image[1, :, -1] = 0
    Image.fromarray(image).save(tmp_path / "alpha.png")
    result = read_rgb(tmp_path / "alpha.png").astype(np.int64)
    colour = image[..., :-1].astype(np.float64)
    alpha = image[..., -1:] / 255
    expected = np.broadcast_to(colour * alpha + 255 * (1 - alpha), result.shape)
    assert np.abs(result - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(result[0], np.broadcast_to(image[0, :, :-1], result[0].shape))
    assert (result[1] == 255).all()


def test_palette_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "t.png", transparency=0)
    np.testing.assert_array_equal(read_rgb(tmp_path / "t.png"), [[[255, 255, 255], [0, 255, 0]]])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    cmyk = Image.fromarray(np.full((16, 16, 3), (200, 60, 30), np.uint8)).convert("CMYK")
    cmyk.save(tmp_path / "c.jpg", quality=95)
    result = read_rgb(tmp_path / "c.jpg")
    assert np.abs(result.astype(int) - (200, 60, 30)).max() <= 6


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bits_are_rounded(tmp_path: Path, colour_type: int, channels: int) -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    samples[0, :6, 0] = [0, 128, 129, 65535, 65407, 65406]
    write_png16(tmp_path / "s.png", samples, colour_type)
    expected = np.floor(samples / 257 + 0.5).astype(np.uint8)
    expected = np.broadcast_to(expected, (20, 30, 3))
    np.testing.assert_array_equal(read_rgb(tmp_path / "s.png"), expected)


def test_sixteen_bit_grey_tiff(tmp_path: Path) -> None:
    samples = np.array([[0, 257, 385, 386, 65535]], np.uint16)
    Image.fromarray(samples).save(tmp_path / "s.tif")
    np.testing.assert_array_equal(read_rgb(tmp_path / "s.tif")[0, :, 0], [0, 1, 1, 2, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    image = Image.fromarray(noise(8, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"o.{suffix}"
    image.save(path, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert expected.shape[:2] == ((16, 8) if orientation > 4 else (8, 16))
    np.testing.assert_array_equal(read_rgb(path), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.95])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"broken.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"broken\.") as error:
        read_rgb(path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png"):
        read_rgb(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"missing\.png: no such file"):
        read_rgb(tmp_path / "missing.png")
    with pytest.raises(UserError, match=r"text\.png/a\.png: no such file$"):
        read_rgb(tmp_path / "text.png" / "a.png")
    with pytest.raises(UserError, match="folder"):
        read_rgb(tmp_path)


def test_list_images_sorts_and_names_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "._a.jpg", ".DS_Store", "c.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "linked.png").symlink_to("a.jpg")
    (tmp_path / "y.pdf").touch()
    expected = ["a.jpg", "b.PNG", "c.tiff", "linked.png"]
    for _ in range(2):
        assert [path.name for path in list_images(tmp_path)] == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 5 left out that cannot be read as images: .hidden.png (hidden), folder.png/, "
        "link.png (dangling link), notes.txt, y.pdf"
    ]
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "nowhere")


def test_of_many_left_out_some_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if pi-heif were not installed.
    monkeypatch.setattr(images, "picture_suffixes", lambda: frozenset({".png"}))
    for number in range(12):
        (tmp_path / f"{number:02}.HEIC").touch()
    assert list_images(tmp_path) == []
    (line,) = (record.getMessage() for record in caplog.records)
    assert "12 left out" in line
    assert "00.HEIC (pip install 'drsformer_jax[heif]' to read it), 01.HEIC" in line
    assert line.endswith("09.HEIC (pip install 'drsformer_jax[heif]' to read it) and 2 more")


def test_all_that_is_written_as_an_image_is_listed_and_read(tmp_path: Path) -> None:
    image = Image.fromarray(noise(64, 64))
    # AVIF, JPEG 2000 and QOI are not in every version and build of Pillow.
    formats = Image.registered_extensions()
    suffixes = [suffix for suffix in WRITTEN if formats.get(f".{suffix}") in Image.SAVE]
    for suffix in suffixes:
        bilevel = suffix == "pbm"
        (image.convert("1") if bilevel else image).save(tmp_path / f"{suffix}.{suffix}")
    listed = list_images(tmp_path)
    assert [path.suffix[1:] for path in listed] == sorted(suffixes)
    for path in listed:
        assert read_rgb(path).shape == ((1024, 1024, 3) if path.stem == "icns" else (64, 64, 3))
    # Whatever Pillow registers that is no still picture stays out.
    assert not picture_suffixes() & {".pdf", ".eps", ".ps", ".wmf", ".mpg", ".fli", ".hdf", ".grib"}


def test_what_is_listed_and_what_is_decoded_are_the_same_kinds(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "drawing.png", format="EPS")
    with pytest.raises(UserError, match=r"drawing\.png: not an image in a known format"):
        read_rgb(tmp_path / "drawing.png")


def test_warnings_reach_stderr_of_a_program(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    Image.new("CMYK", (8, 8)).save(tmp_path / "c.jpg")
    code = (
        "import sys; from drsformer_jax.data.images import list_images, read_rgb\n"
        "for path in 2 * list_images(sys.argv[1]): read_rgb(path)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left_out, assumed = done.stderr.splitlines()
    assert left_out.startswith(f"{tmp_path}: 1 left out")
    assert assumed.startswith(f"{tmp_path / 'c.jpg'}: CMYK without a fitting colour profile")


def test_the_light_modules_import_no_grain() -> None:
    code = (
        "import sys, drsformer_jax.data.images, drsformer_jax.data.sources, "
        "drsformer_jax.data.pipeline, drsformer_jax.data.synthetic.photographs\n"
        "heavy = {'grain', 'jax', 'skimage', 'tensorflow', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
