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
# Among what was tried, the photograph.
IMAGE = "image"
# Height and width of the noise that a program for any size is tried on; neither is what it was
# traced at.
SIZES = ((40, 56), (64, 32))
# Where two logits are nearly equal, rounding decides which of them attention keeps. The paper's
# network without MEFC, with random weights, had such a pair in one of four images of noise. Then
# other noise is tried.
TRIES = 4


def export_network(
    path: Path, weights: Weights, size: Size, image: np.ndarray | None = None
) -> dict[str, float]:
    """Writes `path`, in the form that its suffix names, if what it computes is what ours does.

    Args:
      size: height and width of the only images that it takes, multiples of 8; None: of any.
      image: float32 H W C, on which it is tried beside noise. It does not decide: a choice of
        attention may fall the other way in it.

    Returns:
      The largest absolute difference from our network by what was tried: sizes, and "image".

    Raises:
      UserError: what is needed to write or to run it is not installed; or it computes something
        else. Then nothing is written.
    """
    with atomic_path(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, weights, size)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        is_described = path.suffix.lower() == ".stablehlo"
        try:
            if is_described:
                write_description(temporary, digest, weights, size)
            differences = _differences(temporary, weights, [size] if size else SIZES, image)
        finally:
            description_of(temporary).unlink(missing_ok=True)
        worst = max(value for name, value in differences.items() if name != IMAGE)
        if not worst <= TOLERANCE:
            raise UserError(
                f"{path}: not written: it would differ by {worst:.1e} from our network, and "
                f"{TOLERANCE:.0e} is allowed"
            )
        if is_described:
            write_description(path, digest, weights, size)
    return differences


def _differences(
    path: Path, weights: Weights, sizes: Sequence[tuple[int, int]], image: np.ndarray | None
) -> dict[str, float]:
    theirs = Derainer.of_exported(open_exported(path))
    ours = Derainer(weights.config, weights.params)

    def difference(image: np.ndarray) -> float:
        found = [derain.restore_float(image, tile=0) for derain in (theirs, ours)]
        return float(np.abs(found[0] - found[1]).max())

    rng, differences = np.random.default_rng(0), {}
    for height, width in sizes:
        for _ in range(TRIES):
            noise = rng.random((height, width, weights.config.in_channels), np.float32)
            found = difference(noise)
            if found <= TOLERANCE:
                break
        differences[f"{height}x{width}"] = found
    if image is not None:
        differences[IMAGE] = difference(image)
    return differences
