"""The checksum of a state: every bit counts, the layout does not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from reference.programs import environment

from drsformer_jax.checkpoints.fingerprint import fingerprint

DTYPES: list[Any] = [np.float32, np.float64, np.int32, np.uint8, ml_dtypes.bfloat16]

PROGRAM = """
import jax, numpy as np
from jax.sharding import PartitionSpec
from drsformer_jax.checkpoints.fingerprint import fingerprint
from drsformer_jax.training.sharding import MeshOptions, make_mesh, state_sharding
values = np.random.default_rng(0).normal(size=(6, 64, 64))
whole = {"a": values.astype(np.float32), "step": np.int32(7)}
for fsdp in (1, 4):
    mesh = make_mesh(MeshOptions(fsdp=fsdp))
    split = jax.device_put(whole, state_sharding(whole, mesh))
    assert split["a"].addressable_shards[0].data.size == whole["a"].size // fsdp
    assert fingerprint(split) == fingerprint(whole), fsdp
"""


def tree(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"a": (100 * rng.normal(size=(3, 4, 5))).astype(dtype), "b": np.zeros((), np.int32)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_counts(dtype: Any) -> None:
    whole = tree(dtype)
    expected = fingerprint(whole)
    assert fingerprint(tree(dtype)) == expected
    raw = whole["a"].view(np.uint8)
    for byte in (0, 1, raw.size // 2, raw.size - 1):
        for bit in (0, 7):
            raw.reshape(-1)[byte] ^= 1 << bit
            assert fingerprint(whole) != expected
            raw.reshape(-1)[byte] ^= 1 << bit
    assert fingerprint(whole) == expected


def test_order_and_shape_count() -> None:
    expected = fingerprint(tree())
    swapped = tree()
    swapped["a"][[0, 1]] = swapped["a"][[1, 0]]
    assert fingerprint(swapped) != expected
    mirrored = tree()
    mirrored["a"] = mirrored["a"][:, :, ::-1]
    assert fingerprint(mirrored) != expected
    reshaped = tree()
    reshaped["a"] = reshaped["a"].reshape(5, 4, 3)
    assert fingerprint(reshaped) != expected


def test_arrays_of_jax_and_of_numpy_have_the_same() -> None:
    assert fingerprint({k: jnp.asarray(v) for k, v in tree().items()}) == fingerprint(tree())


def test_the_layout_over_devices_does_not_count() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(devices=4),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
