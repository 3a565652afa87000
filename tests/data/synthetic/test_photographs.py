"""The photographs inside scikit-image."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.data.synthetic import photographs
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.errors import UserError


def test_the_splits_are_disjoint_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")

    def no_network(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", no_network)
    train = dict(embedded_photographs("train"))
    test = dict(embedded_photographs("test"))
    assert len(train) >= 5
    assert len(test) >= 2
    assert not train.keys() & test.keys()
    for image in [*train.values(), *test.values()]:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 256
    # At least one of each split is in colour.
    for split in (train, test):
        assert any(np.ptp(image.astype(int), axis=-1).max() > 50 for image in split.values())


def test_without_scikit_image_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"drsformer_jax\[demo\]"):
        embedded_photographs("train")


def test_missing_files_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_loader("skimage", loader=None, is_package=True)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(photographs, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"astronaut\.png"):
        embedded_photographs("test")


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="validation"):
        embedded_photographs("validation")
