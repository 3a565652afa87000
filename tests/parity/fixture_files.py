"""What PyTorch computed, as files: the tests compare with it where PyTorch is not installed.

    python tests/parity/fixture_files.py tests/parity/fixtures

writes them: two networks of four channels, one with every option and one without any: weights, an
image, and what the PyTorch module computes for it in float64, module by module; of the first also
the gradient of every parameter. To be run again when the network, the random weights or the probes
change.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.infer import config_from
from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.files import atomic_path
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.recording import Recording

EVERYTHING = DRSformerConfig(
    dim=4, num_blocks=(1, 2, 1, 1), heads=(1, 2, 2, 4), ffn_expansion_factor=1.3, bias=True
)
NETWORKS = {
    "everything": EVERYTHING,
    "bare": dataclasses.replace(EVERYTHING, bias=False, use_mefc=False, layer_norm_type="BiasFree"),
}
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


def save_fixture(path: Path, fixture: Fixture) -> None:
    """Writes a fixture, of its recording all but the logits, as a compressed `.npz`."""
    arrays: dict[str, Any] = {f"tensors/{name}": array for name, array in fixture.tensors.items()}
    for part in _PARTS:
        values: dict[str, np.ndarray] = getattr(fixture.recording, part) or {}
        arrays |= {f"{part}/{name}": array for name, array in values.items()}
    about = {"architecture": fixture.config.architecture(), "made_with": fixture.made_with}
    arrays |= {"about": np.array(json.dumps(about)), "image": fixture.image}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_fixture(path: Path) -> Fixture:
    """Reads what `save_fixture` wrote; nothing is unpickled."""
    groups: dict[str, Any] = {part: {} for part in ("tensors", *_PARTS)}
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].item())
        image = file["image"]
        for key in file.files:
            part, separator, name = key.partition("/")
            if separator:
                groups[part][name] = file[key]
    tensors = groups.pop("tensors")
    groups["gradients"] = groups["gradients"] or None
    config = config_from(about["architecture"], str(path))
    return Fixture(config, tensors, image, Recording(**groups), about["made_with"])


def make_fixture(config: DRSformerConfig, *, gradients: bool) -> Fixture:
    """What PyTorch computes for a network with random weights."""
    import torch

    from drsformer_jax.parity.torch_recording import record_gradients, record_repeated
    from drsformer_jax.parity.torch_reference import build_reference

    torch.set_num_threads(1)  # sums in one order, the same on every machine with this PyTorch
    image = np.ascontiguousarray(built_in_image()[None, :16, :16].transpose(0, 3, 1, 2))
    tensors = dict(from_tree(random_weights(config, 0).params, config))
    module = build_reference(config, tensors)
    recording, _ = record_repeated(module, config, image)
    if gradients:
        record_gradients(recording, module, config, image)
    return Fixture(config, tensors, image, recording, f"PyTorch {torch.__version__}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the parity tests' fixtures.")
    parser.add_argument("folder", type=Path, help="where to write them")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in NETWORKS.items():
        path = folder / f"{name}.npz"
        save_fixture(path, make_fixture(config, gradients=config is EVERYTHING))
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
