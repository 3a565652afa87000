"""The notebooks: their scripts run from the first cell to the last, and notebooks are their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
from reference.programs import environment

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def run(script: str, folder: Path, **options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py")],
        cwd=folder,
        env=environment() | {"MPLBACKEND": "Agg"} | options,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_derain(tmp_path: Path) -> None:
    told = dict(line.split() for line in run("derain", tmp_path).splitlines())
    assert float(told["psnr"]) > float(told["input_psnr"]) + 2


def test_convert_and_parity(tmp_path: Path) -> None:
    told = run("convert_and_parity", tmp_path, TMPDIR=str(tmp_path))
    assert "equal: True" in told
    assert "largest difference" in told


def test_training_stops_where_there_is_no_accelerator(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "train.py")],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no GPU or TPU: choose one" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_training(tmp_path: Path) -> None:
    options = {"ON_CPU": "1", "STEPS": "4", "WORKDIR": "run"}
    named = {f"DRSFORMER_NOTEBOOK_{name}": value for name, value in options.items()}
    told = run("train", tmp_path, **named)
    assert "step 4/4" in told
    assert "parameters:" in told


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script(script: Path) -> None:
    """`make notebooks` writes it anew."""
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    written = jupytext.read(script)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in written.cells
    ]
    assert not any(cell.get("outputs") for cell in notebook.cells)
