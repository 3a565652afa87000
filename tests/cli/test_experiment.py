"""What train.py and eval.py share: help, and mistakes told in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from drsformer_jax.cli import evaluate, train


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("Unable to allocate"), "this machine's memory is not enough (Unable to"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: permission denied: get"),
    ],
)
def test_what_the_machine_does_not_give(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(train, "parse_flags", fail)
    assert train.run(["train.py"], "") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"train.py: error: {told}")
    assert printed.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert train.run(["train.py", "--help"], "What it does.") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("program", "has_profile"), [(train, True), (evaluate, False)])
def test_help(program: Any, has_profile: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["program.py", "--help"], "What it does.") == 0
    told = capsys.readouterr().out
    assert "What it does." in told
    assert ("--profile" in told) is has_profile
