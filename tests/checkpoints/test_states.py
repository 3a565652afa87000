from __future__ import annotations

import numpy as np
import pytest

from drsformer_jax.checkpoints.states import check_finite, precision_note, strip_prefix
from drsformer_jax.errors import UserError


def test_prefix_is_dropped_only_in_front():
    assert strip_prefix({"module.a": 1, "b.module.c": 2}, "x") == {"a": 1, "b.module.c": 2}


def test_a_tensor_with_and_without_prefix_is_refused():
    with pytest.raises(UserError, match=r"x holds tensors with and without 'module\.': a"):
        strip_prefix({"module.a": 1, "a": 2}, "x")


def test_precision_note():
    assert precision_note(["float32", "float32"]) is None
    note = precision_note(["float16", "float32", "float16", "float64"])
    assert note == "2 tensors of float16 and 1 tensors of float64 converted to float32"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value):
    with pytest.raises(UserError, match=r"x has NaN or infinite values in b$"):
        check_finite({"a": np.ones(2), "b": np.array([1, value])}, "x")
