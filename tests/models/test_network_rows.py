"""The network with its rows split over eight CPU devices, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from reference.programs import environment

from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import restore
from drsformer_jax.ops.rows import RowShards

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def differences() -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, str(HERE / "split_programs.py")],
        env=environment(devices=8),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


# Float32 is looked at in tests/cli/test_derain_devices.py.
CASES = [
    "block with biases, 40 rows over 4",
    "latent block with biases, 64 rows over 8",
    "latent block, 56 rows over 4",
    "compensator, 40 rows over 4",
    "network, 40 rows over 4",
    "latent block for TPU, 56 rows over 4",
    "latent block for TPU, 16 rows over 2",
    "compensator for TPU, 40 rows over 4",
]


@pytest.mark.parametrize("case", CASES)
def test_split_as_on_one_device(case: str, differences: dict[str, dict[str, float]]) -> None:
    """Differences are relative to the largest value of each array."""
    assert differences[case]["value"] <= 1e-12
    assert differences[case]["gradients"] <= 1e-11


def test_all_cases_are_looked_at(differences: dict[str, dict[str, float]]) -> None:
    assert list(differences) == CASES


def test_the_image_must_be_a_band() -> None:
    config = dataclasses.replace(PRESETS["tiny"], rows=RowShards("rows", 4, 40))
    with pytest.raises(ValueError, match="expected a band of 16 rows, not 40"):
        restore(config, {}, jnp.zeros((1, 40, 16, 3)))
