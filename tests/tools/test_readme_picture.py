"""The README's picture: mistakes are told before anything is drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import readme_picture


@pytest.mark.parametrize(
    ("out", "flags", "told"),
    [
        ("missing/a.png", [], "there is no folder"),
        ("a.gif", [], "end the name in .png"),
        ("a.png", ["--level=wet"], "'wet' is not one of"),
    ],
)
def test_mistakes_are_told_in_one_line(
    out: str,
    flags: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / out), *flags])
    assert readme_picture.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not list(tmp_path.iterdir())
