"""NIQE's model of pristine photographs: estimated, kept in a file, packaged.

The packaged model is estimated from the 200 clean training images of Rain100L, photographs of the
Berkeley segmentation data set (`tools/estimate_niqe_model.py`); the file's metadata says so. It is
not the authors' model of 125 photographs, whose scores are near but not equal: docs/evaluation.md
has the comparison, and NIQE values from different models do not compare.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from drsformer_jax.data.images import read_rgb
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path
from drsformer_jax.scores.niqe import FEATURES, block_features

PACKAGED = Path(__file__).with_name("niqe_pristine.safetensors")

# Section II-B: of each pristine image, only blocks count that are sharper than this part of its
# sharpest.
SHARPNESS_THRESHOLD = 0.75


@dataclass(frozen=True)
class PristineModel:
    """A multivariate Gaussian over the features of sharp blocks.

    Attributes:
        mean: float64 (36,).
        covariance: float64 (36, 36).
        metadata: where it comes from: 'images' (how many), 'blocks' and 'origin', in words.
    """

    mean: np.ndarray
    covariance: np.ndarray
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mean.shape != (FEATURES,) or self.covariance.shape != (FEATURES, FEATURES):
            raise ValueError(
                f"NIQE has {FEATURES} features, the model's mean and covariance have shapes "
                f"{self.mean.shape} and {self.covariance.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ValueError("the model's mean or covariance is not finite")


def estimate(images: Iterable[str | os.PathLike[str]], origin: str) -> PristineModel:
    """The model of pristine photographs in files.

    Args:
        images: image files.
        origin: what they are, in words.

    Raises:
        UserError: a file is no image, or too small; or there are too few sharp blocks for a
            covariance of full rank.
    """
    sharp = []
    count = 0
    for path in images:
        try:
            features = block_features(read_rgb(path))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        values = features.values[
            features.sharpness > SHARPNESS_THRESHOLD * features.sharpness.max()
        ]
        sharp.append(values[~np.isnan(values).any(axis=1)])
        count += 1
    blocks = np.concatenate(sharp) if sharp else np.empty((0, FEATURES))
    if len(blocks) <= FEATURES:
        raise UserError(
            f"{len(blocks)} sharp blocks in {count} images are too few for a model: more than "
            f"{FEATURES} are needed, and several hundred to be of use; give more images"
        )
    metadata = {"images": str(count), "blocks": str(len(blocks)), "origin": origin}
    return PristineModel(blocks.mean(axis=0), np.cov(blocks, rowvar=False), metadata)


def save(path: str | os.PathLike[str], model: PristineModel) -> None:
    """Writes a .safetensors file with tensors 'mean' and 'covariance'. OSError if it cannot."""
    tensors = {"mean": model.mean, "covariance": model.covariance}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=model.metadata)


def load(path: str | os.PathLike[str]) -> PristineModel:
    """Reads what `save` wrote. UserError that names the file if it is missing or something else."""
    try:
        with safe_open(path, framework="np") as file:
            mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
            metadata = dict(file.metadata() or {})
        return PristineModel(mean, covariance, metadata)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: no model of NIQE ({error})") from error


@cache
def packaged() -> PristineModel:
    """The model that comes with this package."""
    return load(PACKAGED)
