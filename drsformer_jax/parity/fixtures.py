"""Recordings of the PyTorch module as files, for machines without PyTorch."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.infer import config_from
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.recording import Recording

_PARTS = ("outputs", "chosen", "gradients", "active")


@dataclasses.dataclass(frozen=True)
class Fixture:
    """A network, an image and what PyTorch computed for it.

    Attributes:
      tensors: the weights by PyTorch's names, float32.
      image: float64, B C H W.
      recording: float64.
      made_with: of PyTorch, the version.
    """

    config: DRSformerConfig
    tensors: dict[str, np.ndarray]
    image: np.ndarray
    recording: Recording
    made_with: str


def save_fixture(path: str | os.PathLike[str], fixture: Fixture) -> None:
    """Writes a fixture, of its recording all but the logits, as a compressed `.npz`.

    OSError if the folder cannot be written.
    """
    arrays: dict[str, Any] = {f"tensors/{name}": array for name, array in fixture.tensors.items()}
    for part in _PARTS:
        values: dict[str, np.ndarray] = getattr(fixture.recording, part) or {}
        arrays |= {f"{part}/{name}": array for name, array in values.items()}
    about = {"architecture": fixture.config.architecture(), "made_with": fixture.made_with}
    arrays |= {"about": np.array(json.dumps(about)), "image": fixture.image}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_fixture(path: str | os.PathLike[str]) -> Fixture:
    """Reads what `save_fixture` wrote; nothing is unpickled.

    Raises:
      UserError: the file is damaged or something else.
    """
    path = Path(path)
    groups: dict[str, Any] = {part: {} for part in ("tensors", *_PARTS)}
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].item())
            image = file["image"]
            for key in file.files:
                part, separator, name = key.partition("/")
                if separator:
                    groups[part][name] = file[key]
            architecture, made_with = about["architecture"], about["made_with"]
    except Exception as error:
        # Zip, NumPy and JSON each have errors of their own for a damaged file.
        raise UserError(f"{path} is no parity fixture ({type(error).__name__})") from error
    tensors = groups.pop("tensors")
    groups["gradients"] = groups["gradients"] or None
    config = config_from(architecture, str(path))
    return Fixture(config, tensors, image, Recording(**groups), made_with)
