"""Colours of print and CIE L*a*b* become sRGB by the file's profile; what is assumed is noted."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from drsformer_jax.data.decoding import decode_image

HEIGHT, WIDTH = 32, 40
# Of offset ink, roughly: L*, a*, b* where full cyan, magenta, yellow and no black lie on paper.
_ON_PAPER = {
    0b000: (95, 0, -2), 0b100: (55, -37, -50), 0b010: (48, 74, -3), 0b001: (89, -5, 93),
    0b110: (24, 22, -46), 0b101: (50, -68, 25), 0b011: (47, 68, 48), 0b111: (23, 0, 0),
}  # fmt: skip


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def cmyk_profile() -> bytes:
    """A profile of the ICC standard, version 2, with a table of the sixteen corners."""
    corners = bytearray()
    for corner in range(16):
        lightness, a, b = _ON_PAPER[corner >> 1] if not corner & 1 else (10, 0, 0)
        corners += bytes([round(lightness * 2.55), a + 128, b + 128])
    identity = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += identity * 4 + bytes(corners) + identity * 3
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"cmyk\0" + bytes(80),
        b"A2B0": table,
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249),
    }
    offset = 128 + 4 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        index += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI", offset + len(body), b"lcms", 0x02400000) + b"prtrCMYKLab "
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + index + body


def inks() -> Image.Image:
    corners = np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8)
    return Image.fromarray(corners, "CMYK").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)


def managed(image: Image.Image) -> np.ndarray:
    profile = io.BytesIO(cmyk_profile())
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    assert converted is not None
    return np.asarray(converted).astype(float)


def eight_bits(samples: np.ndarray) -> np.ndarray:
    return samples / (np.iinfo(samples.dtype).max / 255)


def write_jpeg(path: Path, profile: bytes | None, *, ycck: bool = False) -> np.ndarray:
    """Inverted, with Adobe's marker, as Photoshop does; returns what was stored."""
    if ycck:
        content = imagecodecs.jpeg8_encode(
            255 - np.asarray(inks()), 100, colorspace="cmyk", outcolorspace="ycck"
        )
        if profile is not None:
            block = b"ICC_PROFILE\0\1\1" + profile
            marker = b"\xff\xe2" + struct.pack(">H", 2 + len(block)) + block
            content = content[:2] + marker + content[2:]
        path.write_bytes(content)
    else:
        inks().save(path, quality=100, subsampling=0, icc_profile=profile)
    assert b"Adobe" in path.read_bytes()
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("ycck", [False, True])
def test_cmyk_jpeg_by_its_profile(ycck: bool, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    stored = write_jpeg(path, cmyk_profile(), ycck=ycck)
    assert np.abs(stored.astype(int) - np.asarray(inks())).mean() < 3  # not inverted
    decoded = decode_image(path)
    np.testing.assert_allclose(decoded.samples, managed(Image.fromarray(stored, "CMYK")), atol=1)
    assert decoded.icc_profile is None
    assert decoded.notes == ()


@pytest.mark.parametrize("ycck", [False, True])
def test_cmyk_jpeg_without_profile_says_what_is_assumed(ycck: bool, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    stored = write_jpeg(path, None, ycck=ycck).astype(float)
    decoded = decode_image(path)
    plain = (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
    np.testing.assert_allclose(decoded.samples, plain, atol=0.5)
    (note,) = decoded.notes
    assert note.startswith(
        "CMYK without a fitting colour profile: the inks are taken as plain complements"
    )


def test_cmyk_jpeg_without_adobes_marker_says_what_is_assumed(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    write_jpeg(path, cmyk_profile())
    content = path.read_bytes()
    start = content.index(b"\xff\xee")
    path.write_bytes(content[:start] + content[start + 16 :])
    assert decode_image(path).notes == (
        "full ink is taken to be stored as 0, as Adobe does, whose marker is missing",
    )


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("has_profile", [True, False])
def test_cmyk_tiff(
    has_profile: bool, dtype: Any, byteorder: str, planarconfig: str, tmp_path: Path
) -> None:
    stored = np.asarray(inks())
    pixels = stored.astype(dtype) * (np.iinfo(dtype).max // 255)
    tifffile.imwrite(
        tmp_path / "image.tif",
        pixels if planarconfig == "contig" else pixels.transpose(2, 0, 1),
        photometric="separated",
        planarconfig=planarconfig,
        byteorder=byteorder,
        compression="lzw",
        iccprofile=cmyk_profile() if has_profile else None,
    )
    decoded = decode_image(tmp_path / "image.tif")
    assert decoded.samples.dtype == dtype
    plain = (255 - stored[..., :3].astype(float)) * (255 - stored[..., 3:].astype(float)) / 255
    expected = managed(inks()) if has_profile else plain
    np.testing.assert_allclose(eight_bits(decoded.samples), expected, atol=1)
    assert len(decoded.notes) == (not has_profile)


def test_a_profile_that_does_not_serve_is_noted(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, why in ((cmyk_profile()[:200], "damaged"), (srgb, "without a fitting")):
        inks().save(tmp_path / "image.tif", icc_profile=profile)
        (note,) = decode_image(tmp_path / "image.tif").notes
        assert why in note


@pytest.mark.parametrize("has_profile", [True, False])
@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_tiff(dtype: Any, photometric: str, has_profile: bool, tmp_path: Path) -> None:
    # Greys are equal parts of all; L* of mid grey and of sRGB's pure red (D50): by the standards.
    lab = np.array([[[0, 0, 0], [53.585, 0, 0], [100, 0, 0], [54.29, 80.81, 69.89]]])
    deep = dtype == np.uint16
    unit, zero = (256, 32768) if deep else (1, 128)
    lightness = {"cielab": 65535, "icclab": 65280}[photometric] if deep else 255
    stored = np.rint(lab * [lightness / 100, unit, unit]).astype(int)
    stored[..., 1:] += zero if photometric == "icclab" else 0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    tifffile.imwrite(
        tmp_path / "image.tif",
        (stored % (2 * zero)).astype(dtype),
        photometric=photometric,
        planarconfig="contig",
        iccprofile=profile if has_profile else None,
    )
    decoded = decode_image(tmp_path / "image.tif")
    expected = [[0, 0, 0], [128, 128, 128], [255, 255, 255], [255, 0, 0]]
    # One step of 8 bits in a* or b* is several in red, green and blue.
    within = [[0.5]] * 3 + [[1 if deep else 5]]
    assert (np.abs(eight_bits(decoded.samples)[0] - expected) <= within).all()
    assert len(decoded.notes) == (not has_profile)
