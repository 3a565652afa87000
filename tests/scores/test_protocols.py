"""The protocols are told apart by name."""

from __future__ import annotations

import pytest

from drsformer_jax.scores.protocols import PROTOCOLS, get_protocol


def test_names() -> None:
    assert list(PROTOCOLS) == ["rain200", "did_ddn", "basicsr"]
    assert all(get_protocol(name).name == name for name in PROTOCOLS)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'rain100'.*rain200, did_ddn, basicsr"):
        get_protocol("rain100")
