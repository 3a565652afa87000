"""Small networks with random weights, as PyTorch would name their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from drsformer_jax.checkpoints.names import to_tree
from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.checkpoints.weights import Weights
from drsformer_jax.cli.main import main
from drsformer_jax.models.config import DRSformerConfig

SMALL: dict[str, Any] = {"dim": 8, "num_blocks": (1, 2, 1, 1), "heads": (1, 2, 2, 4)}


@pytest.fixture(
    params=[
        {},
        {"use_mefc": False},
        {"bias": True, "layer_norm_type": "BiasFree"},
        {"in_channels": 1, "out_channels": 1, "ffn_expansion_factor": 2.0, "use_mefc": False},
    ],
    ids=["paper", "no-mefc", "bias-biasfree", "grey"],
)
def config(request: pytest.FixtureRequest) -> DRSformerConfig:
    """Architectures that differ in which tensors they have."""
    return DRSformerConfig(**{**SMALL, **request.param})


@pytest.fixture
def small() -> DRSformerConfig:
    return DRSformerConfig(**SMALL, use_mefc=False)


@pytest.fixture
def random_state() -> Callable[..., dict[str, np.ndarray]]:
    """Function of (config, seed): random float32 tensors with PyTorch's names and shapes."""

    def make(config: DRSformerConfig, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            name: rng.standard_normal(spec.shape, dtype=np.float32)
            for name, spec in torch_names(config).items()
        }

    return make


@pytest.fixture
def weights(small: DRSformerConfig, random_state: Any) -> Weights:
    tree = to_tree(random_state(small), small)
    return Weights(small, tree, {"recipe": "rain100l", "score": "31.2 dB"})


@pytest.fixture
def assert_same() -> Callable[[Any, Any], None]:
    """Function of two trees or dicts: same keys, dtypes and bits."""

    def check(actual: Any, expected: Any) -> None:
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            # Bits, because 0.0 == -0.0.
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    return check


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[Path, str], None]:
    """Function of (path, pattern): `drsformer convert` refuses it in one line that fits.

    Nothing is written, whatever it was to be converted to.
    """

    def check(path: Path, pattern: str) -> None:
        before = sorted(path.parent.rglob("*"))
        for name in ("out.pth", "out.safetensors", "out"):
            capsys.readouterr()
            assert main(["convert", str(path), str(path.parent / name)]) == 2
            output = capsys.readouterr()
            assert output.out == ""
            assert output.err.startswith(f"drsformer: error: {path}")
            assert output.err.count("\n") == 1
            assert re.search(pattern, output.err)
            assert sorted(path.parent.rglob("*")) == before

    return check
