"""Clean photographs that ship inside the scikit-image package: training data without a download.

Their licences, as scikit-image's documentation of each states them:

    astronaut            NASA (Great Images database), public domain
    chelsea              CC0, Stefan van der Walt
    coffee               CC0, Rachel Michetti
    rocket               SpaceX, released into the public domain
    camera               CC0, Lav Varshney
    brick, grass, gravel CC0 (CC0Textures)
    coins                Brooklyn Museum, no known copyright restrictions

The stereo pair `motorcycle` is left out, as no licence is stated for it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from drsformer_jax.data.images import read_rgb
from drsformer_jax.errors import UserError, missing_extra

# The held-out ones: a portrait in colour and an outdoor scene in grey.
_FILES = {
    "train": (
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "brick.png",
        "coins.png",
        "grass.png",
        "gravel.png",
    ),
    "test": ("astronaut.png", "camera.png"),
}


def embedded_photographs(split: str) -> list[tuple[str, np.ndarray]]:
    """Names and images (uint8 `H W 3`, grey ones as grey RGB) of 'train' or 'test'.

    The two splits share no photograph. Only files that the installed package holds are read.

    Raises UserError if scikit-image (extra `demo`) or one of the files is missing, ValueError for
    another split.
    """
    if split not in _FILES:
        raise ValueError(f"split must be one of {sorted(_FILES)}, got {split!r}")
    # Found without importing it: scikit-image's own loader could start a download.
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise missing_extra("scikit-image", "demo", "training on embedded photographs")
    folder = Path(next(iter(package.submodule_search_locations))) / "data"
    missing = [name for name in _FILES[split] if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"the installed scikit-image holds no {', '.join(missing)} in {folder}: "
            "pip install --upgrade 'drsformer_jax[demo]'"
        )
    return [(Path(name).stem, read_rgb(folder / name)) for name in _FILES[split]]
