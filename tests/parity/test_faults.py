"""The whole comparison: what is equal passes, and a fault is found where it is."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from mutants import MUTANTS
from reference.small import TINY

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity import jax_network, torch_recording
from drsformer_jax.parity.comparison import TOLERANCES, beyond, compare_modules
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.recording import RESTORED, Recording, probes_of
from drsformer_jax.parity.torch_reference import build_reference

CONFIG = DRSformerConfig(**TINY, precision="highest")
WEIGHTS = random_weights(CONFIG, 0)


def run_both(dtype: str, mutate: Callable[..., None] | None = None) -> tuple[Recording, Recording]:
    """Ours and PyTorch's."""
    image = built_in_image()[None, :16, :24].transpose(0, 3, 1, 2)
    image = np.ascontiguousarray(image, dtype)
    module = build_reference(CONFIG, from_tree(WEIGHTS.params, CONFIG))
    if mutate is not None:
        mutate(module)
    theirs = torch_recording.record(module, CONFIG, image)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), WEIGHTS.params)
        ours = jax_network.record(CONFIG, params, image, theirs, tolerance=TOLERANCES[dtype])
    return ours, theirs


def test_every_probe_is_compared() -> None:
    ours, theirs = run_both("float32")
    results = compare_modules(CONFIG, ours, theirs, TOLERANCES["float32"])
    assert [result.name for result in results] == [probe.name for probe in probes_of(CONFIG)]
    assert all(result.difference is not None for result in results)
    assert all((result.selection is not None) == (result.kind == "TKSA") for result in results)
    assert beyond(results) == []
    # Values that could not show a difference would show none.
    assert min(np.std(value) for value in theirs.outputs.values()) > 1e-2


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fault_is_found_where_it_is(mutant: str, dtype: str) -> None:
    mutate, module = MUTANTS[mutant]
    ours, theirs = run_both(dtype, mutate)
    results = compare_modules(CONFIG, ours, theirs, TOLERANCES[dtype])
    assert beyond(results)[0].name == module
    assert not results[-1].within
    assert results[-1].name == RESTORED
