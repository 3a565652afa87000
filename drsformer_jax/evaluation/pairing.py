"""Which restored file belongs to which target: by file name, never by directory order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drsformer_jax.data.images import list_images
from drsformer_jax.errors import UserError


@dataclass(frozen=True)
class FilePair:
    """One image to score: `name` is the file name that both share, without its suffix."""

    name: str
    result: Path
    target: Path


def pair_folders(
    results: str | os.PathLike[str], targets: str | os.PathLike[str]
) -> list[FilePair]:
    """Pairs the images of two folders by file name without suffix (`7.jpg` goes with `7.png`).

    Returns:
        the pairs, sorted by name; at least one.

    Raises:
        UserError: a path is no folder, holds no image, or holds a name twice; or images lack their
            partner, on either side, in which case the message names every one of them.
    """
    results, targets = Path(results), Path(targets)
    by_name = _images_by_name(results), _images_by_name(targets)
    missing = [
        f"{folder} has no partner for {_listed(lacking)}"
        for folder, lacking in (
            (results, by_name[1].keys() - by_name[0].keys()),
            (targets, by_name[0].keys() - by_name[1].keys()),
        )
        if lacking
    ]
    if missing:
        raise UserError(
            "images are paired by file name, but " + " and ".join(missing) + " (rename or remove)"
        )
    return [FilePair(name, by_name[0][name], by_name[1][name]) for name in sorted(by_name[0])]


def _images_by_name(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    twice = set()
    for path in list_images(folder):
        if path.stem in images:
            twice.add(path.stem)
        images[path.stem] = path
    if twice:
        raise UserError(
            f"{folder}: more than one image is called {_listed(twice)} (the suffix does not count)"
        )
    if not images:
        raise UserError(f"{folder}: no images in this folder")
    return images


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
