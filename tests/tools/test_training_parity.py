"""The program that compares training: what it refuses before it begins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import training_parity


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "0"], "--steps 0"),
        (["--batch", "0"], "--batch 0"),
        (["--size", "20"], "--size 20"),
        (["--seed", "-1"], "--seed -1"),
        (["--tolerance", "0"], "--tolerance 0"),
        (["--dtype", "float32", "--steps", "5"], "--steps 5"),
        (["--json", "nowhere/report.json"], "--json nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training_parity.py", *arguments])
    assert training_parity.main() == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {named}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []
