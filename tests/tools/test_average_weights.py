"""The average of trained weights, parameter for parameter."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import average_weights
from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.random_weights import random_weights

SMALL = DRSformerConfig(
    dim=4, num_blocks=(1, 1, 1, 1), heads=(1, 1, 1, 1), bias=True, use_mefc=False, unroll=True
)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> int:
    paths = [str(folder / f"{name}.safetensors") for name in (*names, "average")]
    monkeypatch.setattr(sys, "argv", ["x", *paths])
    return average_weights.main()


def test_every_parameter_is_the_mean_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    each = [random_weights(SMALL, seed) for seed in range(3)]
    for name, weights in zip("abc", each, strict=True):
        save_weights(tmp_path / f"{name}.safetensors", weights)
    assert run(monkeypatch, tmp_path, *"abc") == 0
    assert capsys.readouterr().out.endswith("average.safetensors: the average of 3\n")
    found = load_weights(tmp_path / "average.safetensors")
    assert found.config.architecture() == SMALL.architecture()

    def check(found: np.ndarray, *of: np.ndarray) -> None:
        expected = sum(array.astype(np.float64) for array in of) / 3
        np.testing.assert_array_equal(found, np.float32(expected))

    jax.tree.map(check, found.params, *(weights.params for weights in each))


def test_another_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = dataclasses.replace(SMALL, dim=8)
    for name, config in (("a", SMALL), ("b", wider)):
        save_weights(tmp_path / f"{name}.safetensors", random_weights(config, 0))
    assert run(monkeypatch, tmp_path, "a", "b") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'b.safetensors'}: {wider.summary()}, where " in error
    assert not (tmp_path / "average.safetensors").exists()
    assert run(monkeypatch, tmp_path, "a", "missing") == 2
    assert "missing.safetensors" in capsys.readouterr().err


def test_weights_in_the_place_of_the_file_to_write_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_weights(path, random_weights(SMALL, seed))
    before = paths[1].read_bytes()
    monkeypatch.setattr(sys, "argv", ["x", *map(str, paths)])
    assert average_weights.main() == 2
    assert capsys.readouterr().err == (
        f"error: {paths[1]} exists: name another file to write, last of all\n"
    )
    assert paths[1].read_bytes() == before
