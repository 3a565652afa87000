"""Nothing that a training state holds is lost in JSON."""

from __future__ import annotations

import json
import math

import pytest

from drsformer_jax.basicsr.plain_values import from_json, to_json
from drsformer_jax.errors import UserError


@pytest.mark.parametrize(
    "value",
    [
        {"betas": (0.9, 0.999), "lr": 3e-4, "fused": None, "amsgrad": False, "name": "x"},
        [0.1 + 0.2, 5e-324, -0.0, math.inf, 2**70],
        {3: "three", "3": ["text", (1, (2, []))], (1, 2): {}},
        {"__tuple__": [1], "__items__": []},
    ],
)
def test_values_come_back(value):
    back = from_json(json.loads(json.dumps(to_json(value, "file"))))
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize("odd", [b"bytes", {1, 2}, 1j])
def test_what_is_not_plain_is_named(odd):
    with pytest.raises(UserError, match=rf"file\.a\[1\] is a {type(odd).__name__}"):
        to_json({"a": [0, odd]}, "file")


def test_endless_nesting_is_an_error():
    endless: list = []
    endless.append(endless)
    with pytest.raises(UserError, match="nested too deeply"):
        to_json(endless, "file")
