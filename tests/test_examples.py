"""The examples: each runs as it stands, and is short enough to be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from reference.programs import environment

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
# Behind all that is installed: where torchvision is and works, that one is taken.
STUB = Path(__file__).parent / "reference/torchvision_stub"
LONGEST = 30  # lines of code

EXPECTED = {
    "derain_an_array": "derained",
    "training_step": "step 5",
    "parity_of_a_module": "gradient",
    "spandrel_architecture": "restored by DRSformer (1, 3, 45, 70)",
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    surroundings = environment()
    if example.stem == "spandrel_architecture":
        surroundings["PYTHONPATH"] += os.pathsep + str(STUB)
    run = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert EXPECTED[example.stem] in run.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    lines = [line for line in example.read_text().splitlines() if line.strip()]
    assert len(lines) <= LONGEST
