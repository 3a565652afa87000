"""Weights by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.checkpoints import catalogue
from drsformer_jax.checkpoints.catalogue import AUTHORS, DEFAULT, by_name, default_weights, packaged
from drsformer_jax.checkpoints.weights import load_weights
from drsformer_jax.data.sets import SETS
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS


def test_packaged_weights_are_found_by_name_and_only_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = packaged()[DEFAULT]
    assert by_name(DEFAULT) == file
    assert by_name(f"./{DEFAULT}") == Path(DEFAULT)
    assert by_name(f"{DEFAULT}.safetensors") == Path(f"{DEFAULT}.safetensors")
    Path(DEFAULT).mkdir()  # what is there, is meant
    assert by_name(DEFAULT) == Path(DEFAULT)


def test_the_default_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "checkpoints" / "catalogue.py"))
    with pytest.raises(UserError, match="--weights"):
        default_weights()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "another.safetensors").touch()
    assert default_weights() == tmp_path / "weights" / "another.safetensors"
    (tmp_path / "weights" / f"{DEFAULT}.safetensors").touch()
    assert list(packaged()) == [DEFAULT, "another"]


def test_the_authors_weights_are_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {weights.data_set for weights in AUTHORS.values()} == {
        name for name, data_set in SETS.items() if data_set.published
    }
    assert {weights.preset for weights in AUTHORS.values()} <= set(PRESETS)
    with pytest.raises(UserError, match=r"authors-did .*download.*drsformer convert"):
        load_weights("authors-did")
    with pytest.raises(UserError, match="nonsense: no such file"):
        load_weights("nonsense")
