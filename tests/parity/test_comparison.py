"""What counts as equal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drsformer_jax.parity.comparison import (
    beyond,
    compare_gradients,
    difference,
    selection_difference,
)
from drsformer_jax.parity.recording import Recording


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


class TestGradients:
    REFERENCE = {  # noqa: RUF012
        "latent.0.attn.temperature": np.array([[[1e-3]]]),
        "latent.0.attn.qkv.weight": np.array([[1.0, -2.0]]),
        "output.weight": np.array([[0.5, 0.25]]),
    }

    def compare(self, name: str, error: float) -> list[str]:
        """The gradients beyond 10 * 1e-5 if that of one parameter is off."""
        ours = {key: value + error * (key == name) for key, value in self.REFERENCE.items()}
        results = compare_gradients(
            Recording(gradients=ours), Recording(gradients=self.REFERENCE), 1e-5
        )
        assert [result.name for result in results] == list(self.REFERENCE)
        return [result.name for result in beyond(results)]

    def test_tensors_are_judged_by_themselves(self) -> None:
        assert self.compare("output.weight", 3.5e-5) == []
        assert self.compare("output.weight", 6e-5) == ["output.weight"]

    def test_scalars_are_judged_by_their_attention(self) -> None:
        name = "latent.0.attn.temperature"
        assert self.compare(name, 1.9e-4) == []
        assert self.compare(name, 2.1e-4) == [name]
