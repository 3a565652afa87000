"""Which restored file belongs to which target: by file name, never by directory order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drsformer_jax.data.images import list_images
from drsformer_jax.data.pairing import pair_by_name
from drsformer_jax.errors import UserError


@dataclass(frozen=True)
class FilePair:
    """One image to score: `name` is that of the result, without its suffix."""

    name: str
    result: Path
    target: Path


def pair_folders(
    results: str | os.PathLike[str], targets: str | os.PathLike[str]
) -> list[FilePair]:
    """Pairs the images of two folders by file name, in any of the schemes of `data.pairing`.

    `7.jpg` goes with `7.png`, `rain-7.png` with `norain-7.png`, `901_1.jpg` and `901_2.jpg` with
    `901.png`.

    Returns:
        the pairs, sorted by name; at least one.

    Raises:
        UserError: a path is no folder, holds no image, or holds a name twice; or images lack their
            partner, on either side, in which case the message names every one of them.
    """
    results, targets = Path(results), Path(targets)
    pairing = pair_by_name(_images(results), _images(targets))
    if pairing.ambiguous:
        raise UserError("; ".join(pairing.ambiguous))
    missing = [
        f"{folder} has no partner for {_listed(lone)}"
        for folder, lone in ((results, pairing.lone_targets), (targets, pairing.lone_inputs))
        if lone
    ]
    if missing:
        raise UserError(
            "images are paired by file name, but " + " and ".join(missing) + " (rename or remove)"
        )
    return [FilePair(pair.name, pair.input, pair.target) for pair in pairing.pairs]


def _images(folder: Path) -> list[Path]:
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder}: no images in this folder")
    return images


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.stem for path in paths))
