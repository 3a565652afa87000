"""The demonstration's folder: what it clears and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the pictures are drawn by matplotlib (extra: demo)")

import demo
from drsformer_jax.errors import UserError


def test_a_second_demonstration_starts_afresh(tmp_path: Path) -> None:
    layout = demo.Layout(tmp_path / "new" / "demo")
    layout.prepare()
    layout.run.mkdir()
    (layout.run / "metrics.jsonl").touch()
    layout.rainy.mkdir()
    (layout.out / "notes.txt").write_text("mine")
    (layout.out / "my photographs").mkdir()
    layout.prepare()
    assert not layout.run.exists()
    assert not layout.rainy.exists()
    assert (layout.out / "notes.txt").read_text() == "mine"
    assert (layout.out / "my photographs").is_dir()


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="not made by this program"):
        demo.Layout(tmp_path).prepare()
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    demo.Layout(tmp_path).prepare()


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    layout = demo.Layout(tmp_path / "demo")
    layout.prepare()
    layout.run.symlink_to(elsewhere)
    with pytest.raises(UserError, match="link"):
        layout.prepare()
    assert (elsewhere / "precious").exists()


def test_a_file_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert demo.main(["--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_failing_command_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "write_photographs", lambda layout: "rain200")
    # No photographs were written, so the first command has nothing to read.
    assert demo.main(["--out", str(tmp_path / "demo")]) == 1
    captured = capfd.readouterr()
    assert "$ drsformer derain" in captured.out
    assert "no such file or folder" in captured.err
    assert "Traceback" not in captured.err
