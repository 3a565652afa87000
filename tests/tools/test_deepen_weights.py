"""Weights with more blocks restore as before, and can learn more."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepen_weights
from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import restore
from drsformer_jax.parity.random_weights import random_weights

BLOCKS = (1, 2, 1, 1)
SMALL = DRSformerConfig(
    dim=4, num_blocks=BLOCKS, heads=(1, 1, 1, 1), bias=True, use_mefc=False, unroll=True
)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *blocks: int) -> int:
    save_weights(folder / "w.safetensors", random_weights(SMALL, 0))
    arguments = [str(folder / "w.safetensors"), str(folder / "deeper.safetensors")]
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "--blocks", *map(str, blocks)])
    return deepen_weights.main()


def test_a_deeper_network_computes_the_same_and_can_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, 1, 3, 1, 2) == 0
    old, new = (load_weights(tmp_path / f"{name}.safetensors") for name in ("w", "deeper"))
    assert new.config.num_blocks == (1, 3, 1, 2)
    count = sum(leaf.size for leaf in jax.tree.leaves(new.params))
    assert capsys.readouterr().out.endswith(f"deeper.safetensors: {count:,} parameters\n")
    other = deepen_weights.deepened(old, (1, 3, 1, 2), 2**32)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, other.params, new.params)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 8, 8, 3)), jnp.float32)
    found = restore(new.config, new.params, image)
    np.testing.assert_allclose(found, restore(old.config, old.params, image), rtol=0, atol=1e-6)
    # The last products of a new block are zero, and those before them are not: it can learn.
    added = new.params["latent"]["ffn"]
    assert not added["project_out"]["kernel"][1].any()
    assert added["project_in"]["kernel"][1].all()


def test_blocks_cannot_be_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, 1, 1, 1, 1) == 2
    assert "the network has 1 2 1 1, and none can be taken away" in capsys.readouterr().err
    assert not (tmp_path / "deeper.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "flags", "told"),
    [
        ("w.safetensors", [], "would overwrite an input"),
        ("deeper.safetensors", ["--seed", str(2**64)], "--seed"),
        ("deeper.safetensors", ["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_told_and_the_weights_stay(
    out: str,
    flags: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, random_weights(SMALL, 0))
    before = weights.read_bytes()
    arguments = [str(weights), str(tmp_path / out), "--blocks", "1", "3", "1", "1", *flags]
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    assert deepen_weights.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert weights.read_bytes() == before
    assert list(tmp_path.iterdir()) == [weights]
