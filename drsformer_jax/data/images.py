"""Image files in, 8-bit RGB arrays out, and back to PNG.

The network is trained on, and its scores are defined for, 8-bit RGB. Whatever else a photograph
comes as (grey, palette, alpha, CMYK, 16 bits, an EXIF rotation) is turned into that here.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

import numpy as np
from PIL import Image

from drsformer_jax.data.decoding import Decoded, decode_image
from drsformer_jax.data.formats.colour import in_8_bits
from drsformer_jax.data.formats.pillow import HEIF_SUFFIXES, picture_suffixes
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path
from drsformer_jax.paths import nothing_at

logger = logging.getLogger(__name__)

# So many files that are left out are named in one line; of the others, their number.
MAX_LEFT_OUT_NAMED = 10


def list_images(folder: str | os.PathLike[str], *, names_folders: bool = True) -> list[Path]:
    """The image files directly in `folder`, sorted by name: of all kinds that can be decoded.

    What else is there is counted and named in one line of the log, as a warning. Hidden files are
    left out, and named only if they look like images; folders, unless `names_folders` is off.

    Raises UserError if `folder` is not a folder or cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise nothing_at(folder, "folder")
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    suffixes = picture_suffixes()
    images = [path for path in paths if _is_image(path, suffixes)]
    taken = set(images)
    left_out = [
        path
        for path in paths
        if path not in taken
        and _is_noticed(path, suffixes)
        and (names_folders or not path.is_dir())
    ]
    if left_out:
        named = ", ".join(map(_named, left_out[:MAX_LEFT_OUT_NAMED]))
        if len(left_out) > MAX_LEFT_OUT_NAMED:
            named += f" and {len(left_out) - MAX_LEFT_OUT_NAMED} more"
        warn_once(f"{folder}: {len(left_out)} left out that cannot be read as images: {named}")
    return images


def require_images(folder: str | os.PathLike[str]) -> list[Path]:
    """As `list_images`; UserError, too, if there is none."""
    paths = list_images(folder)
    if not paths:
        raise UserError(f"{folder}: no images in this folder")
    return paths


def holds_images(folder: Path) -> bool:
    """Whether `list_images` would find any; False, too, where there is no such folder."""
    suffixes = picture_suffixes()
    return folder.is_dir() and any(_is_image(path, suffixes) for path in folder.iterdir())


def _is_image(path: Path, suffixes: frozenset[str]) -> bool:
    return path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file()


def _is_noticed(path: Path, suffixes: frozenset[str]) -> bool:
    """Whether a user would miss it. macOS puts `._photo.jpg` beside a photo.jpg on other disks."""
    if path.name[0] == ".":
        return path.suffix.lower() in suffixes and not path.name.startswith("._")
    return True


def _named(path: Path) -> str:
    """The name of what is left out, and why, where the name does not say it."""
    if path.is_dir():
        return f"{path.name}/"
    if not path.exists():
        return f"{path.name} (dangling link)"
    if path.name[0] == ".":
        return f"{path.name} (hidden)"
    if path.suffix.lower() in HEIF_SUFFIXES:
        return f"{path.name} (pip install 'drsformer_jax[heif]' to read it)"
    return path.name


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning; the same one only once in a process, however often files are read."""
    logger.warning("%s", message)


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
    """Decodes an image file as uint8 `H W 3`, upright.

    Grey and palette images are expanded, transparency is laid over white as viewers show it,
    16-bit samples are rounded to 8 bits. Of an animation: the first frame. What has to be assumed
    is logged as a warning, once for each file.

    Raises UserError that names the file if it is missing, truncated or no readable image.
    """
    decoded = decode_image(path)
    for note in decoded.notes:
        warn_once(f"{path}: {note}")
    return as_rgb(decoded)


def as_rgb(decoded: Decoded) -> np.ndarray:
    """The samples of a decoded image as uint8 `H W 3`, as `read_rgb` describes it."""
    samples = in_8_bits(decoded.samples)
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
