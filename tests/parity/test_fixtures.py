"""Parity with what PyTorch computed elsewhere, and with PyTorch itself where it is installed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from fixture_files import load_fixture, save_fixture

from drsformer_jax.checkpoints.names import to_tree
from drsformer_jax.parity import jax_network
from drsformer_jax.parity.comparison import (
    TOLERANCES,
    ModuleResult,
    beyond,
    compare_gradients,
    compare_modules,
    difference,
)
from drsformer_jax.parity.recording import RESTORED, decisions_of

FOLDER = Path(__file__).parent / "fixtures"
NAMES = ["bare", "everything"]


def worst(results: list[ModuleResult]) -> list[str]:
    return [f"{result.name}: {result.difference or result.problem}" for result in beyond(results)]


@pytest.mark.parametrize(
    ("name", "dtype"), [("bare", "float64"), ("everything", "float32"), ("everything", "float64")]
)
def test_jax_agrees_with_the_fixture(name: str, dtype: str) -> None:
    """Values in float32 and float64 (PyTorch's are float64), gradients in float64."""
    fixture = load_fixture(FOLDER / f"{name}.npz")
    config = dataclasses.replace(fixture.config, precision="highest")
    gradients = dtype == "float64" and fixture.recording.gradients is not None
    assert gradients == ((name, dtype) == ("everything", "float64"))
    with jax.enable_x64(dtype == "float64"):
        params = to_tree({n: a.astype(dtype) for n, a in fixture.tensors.items()}, config)
        arguments = (config, params, fixture.image.astype(dtype), fixture.recording)
        active = fixture.recording.active
        ours = jax_network.record(*arguments, tolerance=TOLERANCES[dtype])
        if gradients:
            jax_network.record_gradients(ours, *arguments, tolerance=TOLERANCES[dtype])
    assert ours.outputs[RESTORED].dtype == dtype
    results = compare_modules(config, ours, fixture.recording, TOLERANCES[dtype])
    assert worst(results) == []
    assert all(result.difference for result in results)
    if gradients:
        results = compare_gradients(ours, fixture.recording, TOLERANCES[dtype])
        assert worst(results) == []
        assert [result.name for result in results] == list(fixture.tensors)
        # All signs in front of ReLUs were given, and in float64 none was another one.
        assert ours.flips is not None
        assert (ours.flips.count, ours.flips.total) == (0, sum(map(np.size, active.values())))
        assert len(active) == sum(decision.kind == "ReLU" for decision in decisions_of(config))


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_still_agrees_with_the_fixture(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from drsformer_jax.parity.torch_recording import record, record_gradients
    from drsformer_jax.parity.torch_reference import build_reference

    fixture = load_fixture(FOLDER / f"{name}.npz")
    module = build_reference(fixture.config, fixture.tensors)
    made = fixture.recording
    live = record(module, fixture.config, fixture.image)
    if made.gradients is not None:
        record_gradients(live, module, fixture.config, fixture.image)
    for found, expected in (
        (live.outputs, made.outputs),
        (live.gradients or {}, made.gradients or {}),
    ):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert difference(found[key], value).within(1e-12), key
    for key, mask in made.chosen.items():
        np.testing.assert_array_equal(live.chosen[key], mask)


def test_a_fixture_comes_back_as_it_was(tmp_path: Path) -> None:
    fixture = load_fixture(FOLDER / "bare.npz")
    save_fixture(tmp_path / "copy.npz", fixture)
    copy = load_fixture(tmp_path / "copy.npz")
    assert (copy.config, copy.made_with) == (fixture.config, fixture.made_with)
    trees = [(f.tensors, f.image, vars(f.recording)) for f in (copy, fixture)]
    jax.tree.map(np.testing.assert_array_equal, *trees)
