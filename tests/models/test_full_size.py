"""The paper's two networks at full size against PyTorch; minutes long, so run by hand.

pytest -m slow -rP tests/models/test_full_size.py     (-rP prints the differences measured)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
import torch
from reference.parity import network_tree, torch_network, weights_of

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import restore
from drsformer_jax.parity.torch_drsformer import selection_margin

pytestmark = pytest.mark.slow

BOUNDS = {"float32": 1e-5, "float64": 1e-11}

# Seeds of images for which no choice of the k largest is within rounding (`selection_margin`).
IMAGE_SEEDS = {
    ("drsformer", (64, 64)): 8,
    ("drsformer", (48, 72)): 11,
    ("drsformer_no_mefc", (64, 64)): 33,
    ("drsformer_no_mefc", (48, 72)): 4,
}


@pytest.fixture(scope="module", params=["drsformer", "drsformer_no_mefc"])
def variant(request: pytest.FixtureRequest) -> tuple[str, DRSformerConfig, torch.nn.Module]:
    """Name, configuration (in its quickest form to compile) and PyTorch network."""
    config = dataclasses.replace(PRESETS[request.param], unroll=False, precision="highest")
    return request.param, config, torch_network(config)


@pytest.mark.parametrize("size", [(64, 64), (48, 72)], ids=["64x64", "48x72"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_pytorch(variant: Any, size: tuple[int, int], dtype: str) -> None:
    name, config, network = variant
    generator = torch.Generator().manual_seed(IMAGE_SEEDS[name, size])
    source = torch.rand(1, 3, *size, generator=generator).to(getattr(torch, dtype))
    network = network.to(source.dtype)
    with torch.no_grad():
        expected = network(source).numpy().transpose(0, 2, 3, 1)
    image = source.numpy().transpose(0, 2, 3, 1)
    with jax.enable_x64(dtype == "float64"):
        params = network_tree(weights_of(network), config)
        actual = np.asarray(jax.jit(functools.partial(restore, config))(params, image))
    assert actual.dtype == dtype
    difference = np.abs(actual - expected).max()
    print(f"{name}, {size[0]}x{size[1]}, {dtype}: max abs difference {difference:.1e}")
    assert np.abs(expected - image).mean() > 1e-2
    if not difference <= BOUNDS[dtype]:
        margin = selection_margin(network, source)
        pytest.fail(f"{difference:.1e} > {BOUNDS[dtype]:.0e}; selection margin {margin:.1e}")
