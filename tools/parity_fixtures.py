"""Writes the PyTorch references that the tests compare with where PyTorch is not installed.

    python tools/parity_fixtures.py tests/parity/fixtures

Two networks of four channels, one with every option and one without any: weights, an image, and
what the PyTorch module computes for it in float64, module by module; of the first also the gradient
of every parameter. To be run again when the network, the random weights or the probes change.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.fixtures import Fixture, save_fixture
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.torch_recording import record_gradients, record_repeated
from drsformer_jax.parity.torch_reference import build_reference

EVERYTHING = DRSformerConfig(
    dim=4, num_blocks=(1, 2, 1, 1), heads=(1, 2, 2, 4), ffn_expansion_factor=1.3, bias=True
)
NETWORKS = {
    "everything": EVERYTHING,
    "bare": dataclasses.replace(EVERYTHING, bias=False, use_mefc=False, layer_norm_type="BiasFree"),
}


def make_fixture(config: DRSformerConfig, *, gradients: bool) -> Fixture:
    """What PyTorch computes for a network with random weights."""
    torch.set_num_threads(1)  # sums in one order, the same on every machine with this PyTorch
    image = np.ascontiguousarray(built_in_image()[None, :16, :16].transpose(0, 3, 1, 2))
    tensors = dict(from_tree(random_weights(config, 0).params, config))
    module = build_reference(config, tensors)
    recording, _ = record_repeated(module, config, image)
    if gradients:
        record_gradients(recording, module, config, image)
    return Fixture(config, tensors, image, recording, f"PyTorch {torch.__version__}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write them")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in NETWORKS.items():
        path = folder / f"{name}.npz"
        save_fixture(path, make_fixture(config, gradients=config is EVERYTHING))
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
