"""Exporting a network, and running what was written against our own before it gets its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drsformer_jax.checkpoints.weights import Weights
from drsformer_jax.errors import UserError
from drsformer_jax.exporting.programs import WRITERS, Size, write_description
from drsformer_jax.files import atomic_path
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.inference.exported import description_of, open_exported

TOLERANCE = 1e-5
# Height and width of the noise that a program for any size is tried on; neither is what it was
# traced at.
SIZES = ((40, 56), (64, 32))


def export_network(
    path: Path, weights: Weights, size: Size, images: Sequence[np.ndarray] = ()
) -> dict[str, float]:
    """Writes `path`, in the form that its suffix names, if what it computes is what ours does.

    Args:
      size: height and width of the only images that it takes, multiples of 8; None: of any.
      images: float32 H W C, on which it is tried beside noise.

    Returns:
      The largest absolute difference from our network by the size of the image tried.

    Raises:
      UserError: what is needed to write or to run it is not installed; or it computes something
        else. Then nothing is written.
    """
    noise = np.random.default_rng(0)
    channels = weights.config.in_channels
    shapes = [size] if size else SIZES
    tried = [noise.random((*shape, channels), np.float32) for shape in shapes]
    with atomic_path(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, weights, size)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        is_described = path.suffix.lower() == ".stablehlo"
        try:
            if is_described:
                write_description(temporary, digest, weights, size)
            differences = _differences(temporary, weights, [*tried, *images])
        finally:
            description_of(temporary).unlink(missing_ok=True)
        worst = max(differences.values())
        if not worst <= TOLERANCE:
            raise UserError(
                f"{path}: not written: it would differ by {worst:.1e} from our network, and "
                f"{TOLERANCE:.0e} is allowed"
            )
        if is_described:
            write_description(path, digest, weights, size)
    return differences


def _differences(path: Path, weights: Weights, images: Sequence[np.ndarray]) -> dict[str, float]:
    exported = open_exported(path)
    theirs = Derainer.of_exported(exported)
    ours = Derainer(weights.config, weights.params)
    return {
        "x".join(map(str, image.shape[:2])): float(
            np.abs(theirs.restore_float(image, tile=0) - ours.restore_float(image, tile=0)).max()
        )
        for image in images
    }
