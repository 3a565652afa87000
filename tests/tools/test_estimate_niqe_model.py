"""The command that estimates NIQE's pristine model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import estimate_niqe_model
from drsformer_jax.scores.niqe_model import load


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["estimate_niqe_model.py", *map(str, arguments)])
    return estimate_niqe_model.main()


def test_a_folder_becomes_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clean"
    folder.mkdir()
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(0, 256, (384, 288, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{seed}.png")
    out = tmp_path / "model.safetensors"
    assert run(monkeypatch, folder, out, "--origin", "noise of dice") == 0
    assert "48 blocks of 4 images" in capsys.readouterr().out
    assert load(out).metadata["origin"] == "noise of dice"


def test_users_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    for arguments, complaint in [
        ((tmp_path / "nowhere", out), "nowhere: no such folder"),
        ((tmp_path, out), "no images in this folder"),
        ((tmp_path, tmp_path / "no" / "x"), "there is no folder"),
    ]:
        assert run(monkeypatch, *arguments, "--origin", "x") == 2
        printed = capsys.readouterr().err
        assert complaint in printed
        assert printed.count("\n") == 1
    assert not out.exists()
