"""What counts as equal, and that a fault is found where it is."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from mutants import MUTANTS
from reference.parity import QUICK, TINY

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity import jax_network
from drsformer_jax.parity.comparison import (
    TOLERANCES,
    beyond,
    compare_modules,
    difference,
    selection_difference,
)
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.recording import RESTORED, Recording, probes_of

CONFIG = DRSformerConfig(**TINY, precision="highest")
WEIGHTS = random_weights(CONFIG, 0)
OPTIONS = tuple(QUICK.items())


class TestDifference:
    def test_numbers(self) -> None:
        reference = np.array([3.0, -4.0])
        found = difference(reference + np.array([0.0, 0.5]), reference)
        assert (found.max_abs, found.scale, found.relative_l2) == (0.5, 4.0, 0.1)
        assert found.within(0.125)
        assert not found.within(0.12)  # max abs / scale is 0.125
        assert not dataclasses.replace(found, max_abs=0.0).within(0.09)  # relative L2 is 0.1

    def test_equal_arrays_are_within_any_tolerance(self) -> None:
        for value in (0.0, 2.5):
            assert difference(np.full(3, value), np.full(3, value)).within(1e-300)

    def test_anything_against_zeros_is_beyond(self) -> None:
        assert not difference(np.array([0.0, 1e-30]), np.zeros(2)).within(0.1)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_no_number_is_beyond(self, value: float) -> None:
        good, bad = np.ones(3), np.array([1.0, value, 1.0])
        assert not difference(bad, good).within(1e9)
        assert not difference(good, bad).within(1e9)
        assert not difference(bad, bad).within(1e9)


class TestSelectionDifference:
    # One head of 5 channels, whose branches keep 2, 3, 3 and 4 entries.
    LOGITS = np.array([[0.5, 0.4, 0.4 - 1e-9, 0.1, -2.0]])

    def masks(self, *rows: str) -> np.ndarray:
        return np.array([[[[[c == "x" for c in row]]]] for row in rows])

    def compare(self, ours: np.ndarray, reference: np.ndarray):
        return selection_difference(ours, reference, self.LOGITS[None, None])

    OURS = ("xx...", "xxx..", "xxx..", "xxxx.")

    def test_equal(self) -> None:
        found = self.compare(self.masks(*self.OURS), self.masks(*self.OURS))
        assert (found.entries, found.total, found.gap, found.sizes) == (0, 20, 0.0, None)
        assert found.within(1e-300)

    def test_a_tie(self) -> None:
        found = self.compare(self.masks(*self.OURS), self.masks("x.x..", *self.OURS[1:]))
        assert found.entries == 2
        assert found.gap == pytest.approx(1e-9)
        assert found.scale == 2.0
        assert found.within(1e-9)
        assert not found.within(4e-10)

    def test_a_wrong_choice(self) -> None:
        found = self.compare(self.masks(*self.OURS), self.masks("x..x.", *self.OURS[1:]))
        assert found.gap == pytest.approx(0.3)
        assert not found.within(1e-5)

    def test_another_number(self) -> None:
        found = self.compare(self.masks(*self.OURS), self.masks("xxx..", *self.OURS[1:]))
        assert found.entries == 1
        assert found.sizes == (3, 3, 3, 4)
        assert not found.within(1e9)


@pytest.fixture(scope="module")
def torch_reference():
    return pytest.importorskip("drsformer_jax.parity.torch_reference", reason="no PyTorch")


def run_both(torch_reference, dtype: str, mutate=None, **options) -> tuple[Recording, Recording]:
    image = built_in_image()[None, :16, :24].transpose(0, 3, 1, 2)
    image = np.ascontiguousarray(image, dtype)
    module = torch_reference.build_reference(CONFIG, from_tree(WEIGHTS.params, CONFIG))
    if mutate is not None:
        mutate(module)
    theirs = torch_reference.record(module, CONFIG, image, **options)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), WEIGHTS.params)
        ours = jax_network.record(
            CONFIG,
            params,
            image,
            theirs,
            tolerance=TOLERANCES[dtype],
            compiler_options=OPTIONS,
            **options,
        )
    return ours, theirs


def test_every_probe_is_compared(torch_reference) -> None:
    ours, theirs = run_both(torch_reference, "float32")
    results = compare_modules(CONFIG, ours, theirs, TOLERANCES["float32"])
    assert [result.name for result in results] == [probe.name for probe in probes_of(CONFIG)]
    assert all(result.difference is not None for result in results)
    assert all((result.selection is not None) == (result.kind == "TKSA") for result in results)
    assert beyond(results) == []
    # Values that could not show a difference would show none.
    assert min(np.std(value) for value in theirs.outputs.values()) > 1e-2


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fault_is_found_where_it_is(torch_reference, mutant: str, dtype: str) -> None:
    mutate, module = MUTANTS[mutant]
    ours, theirs = run_both(torch_reference, dtype, mutate)
    results = compare_modules(CONFIG, ours, theirs, TOLERANCES[dtype])
    assert beyond(results)[0].name == module
    assert not results[-1].within
    assert results[-1].name == RESTORED
