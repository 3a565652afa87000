"""`drsformer derain` with files as people have them: metadata, formats, pipes, HEIC."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageFile

from drsformer_jax.cli.main import main
from drsformer_jax.data.encoding import FORMATS
from drsformer_jax.data.formats import pillow
from drsformer_jax.inference import memory
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS

HEIC = Path(__file__).parents[1] / "data" / "fixtures" / "heic.tar.xz"
MAKER_NOTE = b"MAKER\0" + bytes(range(99))
PIXELS = np.random.default_rng(3).integers(0, 256, (16, 24, 3), np.uint8)


@pytest.fixture(autouse=True)
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the network's place, in a folder of its own."""

    def load(weights: Any = None, devices: int = 1) -> Derainer:
        return Derainer(PRESETS["tiny"], {}, restore=lambda _, image: image)

    monkeypatch.setattr(Derainer, "load", staticmethod(load))
    monkeypatch.chdir(tmp_path)


def photograph(name: str = "photo.jpg", pixels: np.ndarray = PIXELS) -> Path:
    """A picture that lies on its side, with what a camera tells of it."""
    block = Image.Exif()
    block[ExifTags.Base.Make], block[ExifTags.Base.Orientation] = "Canon", 6
    block[ExifTags.IFD.Exif] = {0x927C: MAKER_NOTE}
    block[ExifTags.IFD.GPSInfo] = {1: "N"}
    xmp = b"<x xmlns:exif='http://ns.adobe.com/exif/1.0/' exif:GPSLatitude='48,8N' title='Rain'/>"
    options = {} if name.endswith(".png") else {"xmp": xmp}
    Image.fromarray(pixels).save(name, exif=block, **options)
    return Path(name)


def told(path: str) -> tuple[Image.Exif, Image.Image]:
    with Image.open(path) as image:
        image.load()
    return image.getexif(), image


@pytest.mark.parametrize("ext", FORMATS)
def test_metadata_stay_but_what_was_not_wanted(ext: str) -> None:
    photograph()
    command = ["derain", "photo.jpg", "--ext", ext, "-o"]
    assert main([*command, "all"]) == 0
    assert main([*command, "nowhere", "--strip-gps"]) == 0
    assert main([*command, "none", "--no-metadata"]) == 0
    for folder, has_place in (("all", True), ("nowhere", False)):
        block, image = told(f"{folder}/photo.{ext}")
        assert image.size == (16, 24)
        assert block[ExifTags.Base.Make] == "Canon"
        assert block.get(ExifTags.Base.Orientation, 1) == 1
        assert block.get_ifd(ExifTags.IFD.Exif)[0x927C] == MAKER_NOTE
        assert (ExifTags.IFD.GPSInfo in block) == has_place
        assert (b"GPS" in image.info["xmp"]) == has_place
        assert b"Rain" in image.info["xmp"]
    block, image = told(f"none/photo.{ext}")
    assert ExifTags.Base.Make not in block
    assert "xmp" not in image.info


def test_damage_and_losses_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(PIXELS).save("photo.webp", exif=b"Exif\0\0no TIFF")
    assert main(["derain", "photo.webp", "-o", "out"]) == 0
    assert capsys.readouterr().err == "photo.webp: EXIF is damaged and left out\n"
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save("deep.png")
    assert main(["derain", "deep.png", "-o", "deep.jpg"]) == 0
    said = "deep.png: 16 bits a sample become 8 in JPEG; png and tiff keep them\n"
    assert capsys.readouterr().err == said
    Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])).save("clear.png")
    assert main(["derain", "clear.png", "-o", "clear.jpg"]) == 1
    assert "error: clear.png: has transparency, which JPEG cannot hold: write png, webp" in (
        capsys.readouterr().err
    )
    assert not Path("clear.jpg").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_stands_upright(orientation: int) -> None:
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    with tarfile.open(HEIC) as archive:
        archive.extract(f"{orientation}.heic", filter="data")
    assert main(["derain", f"{orientation}.heic", "-o", "out", "--ext", "auto"]) == 0
    block, image = told(f"out/{orientation}.jpg")
    assert (block[ExifTags.Base.Make], block[ExifTags.Base.Orientation]) == ("Apple", 1)
    # Red, green; blue, white: as stored, 24 wide and 16 high. Transposed as EXIF's standard says.
    colours = np.array([[[220, 30, 30], [30, 200, 30]], [[30, 30, 220], [240, 240, 240]]])
    seen = colours.swapaxes(0, 1) if orientation > 4 else colours
    seen = seen[::-1] if orientation in (3, 4, 7, 8) else seen
    seen = seen[:, ::-1] if orientation in (2, 3, 6, 7) else seen
    assert image.size == ((16, 24) if orientation > 4 else (24, 16))
    np.testing.assert_allclose(np.asarray(image.resize((2, 2), Image.Resampling.BOX)), seen, atol=8)


def test_heic_of_many_bits_and_few_words(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    with tarfile.open(HEIC) as archive:
        archive.extract("ten_bits.heic", filter="data")
    assert main(["derain", "ten_bits.heic", "-o", "out.tiff"]) == 0
    assert capsys.readouterr().err == "ten_bits.heic: its 10 bits a sample are read as 8\n"
    np.testing.assert_allclose(told("out.tiff")[1].getpixel((3, 3)), (200, 100, 50), atol=3)


def test_heic_without_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pillow, "_picture_formats", lambda: ["PNG", "AVIF"])
    with tarfile.open(HEIC) as archive:
        archive.extract("1.heic", filter="data")
    assert main(["derain", "1.heic"]) == 1
    said = "HEIC needs pi-heif, which is not installed: pip install 'drsformer_jax[heif]'"
    assert f"error: 1.heic: cannot be decoded ({said})\n" in capsys.readouterr().err


class TestPipes:
    @staticmethod
    def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    def test_an_image_comes_and_goes(
        self, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        self.piped(monkeypatch, photograph("photo.png").read_bytes())
        assert main(["derain", "-", "-o", "-", "--ext", "tiff"]) == 0
        output = capsysbinary.readouterr()
        image = Image.open(io.BytesIO(output.out))
        assert (image.format, image.size) == ("TIFF", (16, 24))
        assert output.err.startswith(b"-  16 x 24  ")
        assert [path.name for path in Path().iterdir()] == ["photo.png"]

    @pytest.mark.parametrize(
        ("data", "said"), [(b"", " is empty"), (b"text", ": not an image in a known format")]
    )
    def test_what_is_no_image_is_said(
        self,
        data: bytes,
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.piped(monkeypatch, data)
        assert main(["derain", "-", "-o", "-"]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == f"error: -: standard input{said}\n1 of 1 images failed\n"

    def test_a_terminal_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photograph()
        terminal = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        for stream, command in (("stdin", ["-"]), ("stdout", ["photo.jpg", "-o", "-"])):
            with monkeypatch.context() as patch:
                patch.setattr(sys, stream, terminal)
                assert main(["derain", *command]) == 2
            assert ": is a terminal: " in capsys.readouterr().err
        assert [path.name for path in Path().iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--quality", "0", "--ext", "jpg"], "--quality 0: is not from 1 to 100"),
        (["--quality", "80"], "--quality: png and tiff keep all"),
        (["--ext", "gif"], "--ext: invalid choice: 'gif'"),
        (["-o", "-", "--suffix", "_dry"], "--suffix _dry: is for results in a folder"),
        (["other.jpg", "-o", "-"], "-o -: is one file, for 2 images"),
    ],
)
def test_mistakes_are_found_before_the_work(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph()
    photograph("other.jpg")
    assert main(["derain", "photo.jpg", *flags]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["other.jpg", "photo.jpg"]


def test_quality(capsys: pytest.CaptureFixture[str]) -> None:
    photograph()
    for quality in ("95", "40"):
        assert main(["derain", "photo.jpg", "-o", f"{quality}.jpg", "--quality", quality]) == 0
    assert main(["derain", "photo.jpg", "-o", "default.jpg"]) == 0
    sizes = [Path(f"{name}.jpg").stat().st_size for name in ("40", "95", "default")]
    assert sizes[0] < sizes[1] == sizes[2]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_decompression_bomb_is_not_decoded(
    suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (200, 100)).save(f"bomb.{suffix}")

    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(memory, "_host_memory", lambda: memory.image_bytes(100, 150))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", decode)
    assert main(["derain", f"bomb.{suffix}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: bomb.{suffix}: 200 x 100 pixels take about 0.0 GiB of memory")
    assert "cut the image into parts or scale it down" in said
