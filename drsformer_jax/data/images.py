"""Image files in, 8-bit RGB arrays out, and back to PNG.

The network is trained on, and its scores are defined for, 8-bit RGB. Whatever else a photograph
comes as (grey, palette, alpha, CMYK, 16 bits, an EXIF rotation) is turned into that here.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from drsformer_jax.data.decoding import Decoded, decode_image
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".gif"}
)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files directly in `folder`, sorted by name; hidden files are left out.

    Raises UserError if `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
    """Decodes an image file as uint8 `H W 3`, upright.

    Grey and palette images are expanded, transparency is laid over white as viewers show it,
    16-bit samples are rounded to 8 bits. Of an animation: the first frame.

    Raises UserError that names the file if it is missing, truncated or no readable image.
    """
    return as_rgb(decode_image(path))


def as_rgb(decoded: Decoded) -> np.ndarray:
    """The samples of a decoded image as uint8 `H W 3`, as `read_rgb` describes it."""
    samples = decoded.samples
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if samples.shape[2] in (2, 4):
        samples = _over_white(samples[..., :-1], samples[..., -1:])
    if samples.shape[2] == 1:
        samples = np.repeat(samples, 3, axis=2)
    # Contiguous and of its own: what Pillow hands out is read-only, and a view keeps all alive.
    return np.array(samples, order="C")


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes a uint8 `H W 3` (or `H W`) image as PNG; the file appears complete or not at all.

    Raises ValueError for other arrays, UserError if the file cannot be written.
    """
    if image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    ):
        raise ValueError(f"expected uint8 H W 3 or H W, got {image.dtype} {image.shape}")
    try:
        with atomic_path(path) as temporary:
            Image.fromarray(np.ascontiguousarray(image)).save(temporary, format="PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lays uint8 `H W C` over white, given its opacity `H W 1`; opaque pixels keep their value."""
    weighted = colour.astype(np.uint32) * alpha + 255 * (255 - alpha.astype(np.uint32))
    return ((weighted + 127) // 255).astype(np.uint8)
