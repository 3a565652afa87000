from __future__ import annotations

import numpy as np
import pytest

from drsformer_jax.checkpoints.names import check_finite
from drsformer_jax.checkpoints.tensors import StoredTensor, precision_note
from drsformer_jax.errors import UserError


def test_precision_note():
    assert precision_note(["float32", "float32"]) is None
    note = precision_note(["float16", "float32", "float16", "float64"])
    assert note == (
        "2 tensors of float16 converted to float32, exactly and "
        "1 tensor of float64 rounded to float32, which loses digits"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value):
    with pytest.raises(UserError, match=r"x has NaN or infinite values \(in float32\) in b$"):
        check_finite({"a": np.ones(2), "b": np.array([1, value])}, "x")


def test_a_stored_tensor_is_read_only_when_it_is_wanted():
    reads = []

    def read():
        reads.append(1)
        return np.array([1.5, 1e300])

    tensor = StoredTensor((2,), "float64", read)
    assert (tensor.shape, tensor.dtype, reads) == ((2,), np.float32, [])
    values = np.asarray(tensor)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.float32([1.5, np.inf]))
    assert reads == [1]
