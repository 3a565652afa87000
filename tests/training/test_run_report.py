"""The page of a training run: of one that was resumed, of an old one, of what is none."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.files import write_json
from drsformer_jax.models.config import PRESETS
from drsformer_jax.training.reporting import Reporter, Validation, Window
from drsformer_jax.training.run_report import write_run_report
from drsformer_jax.training.sessions import FILE, read_sessions, seconds_at_work


class Parsed(HTMLParser):
    """Of a page: the tags that are open at its end, and all text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "img", "path", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def at_work(workdir: Path, first: int, last: int, psnr: float) -> None:
    """What a run of three steps a report says from one step to another, validated at its end."""
    log = Reporter(workdir, 6, first)
    keys = ("loss", "learning_rate", "gradient_norm", "output_change", "target_change")
    window = Window(first, [{key: np.float32(1 / (1 + first)) for key in keys}] * (last - first), 9)
    log.advance(last)
    log.training(window)
    picture = np.full((30, 2700, 3), 90, np.uint8)
    log.validation(last, Validation({"psnr": psnr, "input_psnr": 28.5}, "", {"three": picture}))
    log.close()


def test_a_run_that_was_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorBoard's package takes seconds to import.
    monkeypatch.setattr("drsformer_jax.training.reporting.open_writer", lambda workdir: (None, ""))
    config = {"name": "<b>", "total_steps": 6, "architecture": PRESETS["tiny"].architecture()}
    write_json(tmp_path / "config.json", config | {"optimizer": {"hold_steps": 3}})
    at_work(tmp_path, 0, 3, 30.0)
    at_work(tmp_path, 3, 6, 31.0)
    path = write_run_report(tmp_path)
    assert path == tmp_path / "report.html"
    page, text = Parsed(path), path.read_text(encoding="utf-8")
    assert page.open == []
    for told in ("<b>", "DRSformer: dim 8", "31.00 dB", "resumed 1 time", "optimizer.hold_steps"):
        assert told in page.text
    assert "after step 6, +2.50 dB" in page.text
    assert text.count("<svg") == 6
    assert not re.search(r"https?:|<script|<link|url\(", text)
    (picture,) = re.findall('base64,([^"]+)', text)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (1800, 20)
    starts = read_sessions([json.loads(line) for line in (tmp_path / FILE).open()])
    assert [(one.first_step, one.last_step) for one in starts] == [(0, 3), (3, 6)]


def test_an_old_workdir_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"total_steps": 9, "data": {"train": "a<b"}}')
    lines = ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "lo']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.md").write_text("about it\n\n| set | PSNR |\n| --- | --- |\n")
    (run / "evaluation" / "worst.png").write_bytes(b"\x89PNG damaged")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    text = Parsed(run / "report.html").text
    assert "a<b" in text
    assert "0.5" in text
    for told in ("about it", "PSNR", "the worst images\ncannot be read"):
        assert told in text
    assert "---" not in text
    # Without a number, too.
    (run / "metrics.jsonl").unlink()
    assert main(["report", str(run), "-o", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").is_file()
    # What the run wrote is not written over.
    assert main(["report", str(run), "-o", str(run / "config.json")]) == 2
    assert "config.json: would overwrite an input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("sessions.jsonl", '{"time": 1e30, "start": 1, "before": null, "environment": {}}'),
        ("sessions.jsonl", '{"time": NaN, "start": 1, "before": null, "environment": {}}'),
        ("sessions.jsonl", '{"time": 5, "start": 1, "before": 1e400, "environment": {}}'),
        ("sessions.jsonl", '{"time": 5, "start": 1, "before": null, "environment": []}'),
        ("sessions.jsonl", '{"time": 5, "start": 1e400, "before": null, "environment": {}}'),
        ("metrics.jsonl", f'{{"step": 7, "loss": 1{"0" * 400}}}'),
        ("metrics.jsonl", f'{{"step": 1{"0" * 400}, "loss": 1}}'),
        ("metrics.jsonl", '{"step": 7, "loss": 1, "psnr": 1.7e308}'),
        ("metrics.jsonl", "[" * 100_000),
    ],
)
def test_damaged_lines_are_left_out(
    file: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    session = '{"time": 9, "start": 0, "before": null, "environment": {"system": "kept"}}'
    whole = {"metrics.jsonl": '{"step": 1, "loss": 0.5}', "sessions.jsonl": session}
    for name, kept in whole.items():
        (tmp_path / name).write_text(f"{line}\n{kept}\n" if name == file else f"{kept}\n")
    assert main(["report", str(tmp_path)]) == 0
    text = Parsed(tmp_path / "report.html").text
    assert "0.5" in text
    assert "kept" in text


@pytest.mark.parametrize(
    "architecture", ["[]", "5", '{"dim": [8]}', f'{{"ffn_expansion_factor": {10**400}}}']
)
def test_a_damaged_architecture_is_not_told(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"architecture": {architecture}}}')
    assert main(["report", str(tmp_path)]) == 0
    assert "DRSformer" in Parsed(tmp_path / "report.html").text


@pytest.mark.parametrize(
    ("config", "told"),
    [(None, "is no training workdir: it has no config.json"), ("{", "config.json is damaged")],
)
def test_what_is_no_run(
    config: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if config:
        (tmp_path / "config.json").write_text(config)
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_the_time_of_a_killed_run_ends_with_its_last_word() -> None:
    environment = {"jax": "1"}
    lines = [
        {"time": 100.0, "start": 0, "before": None, "environment": environment},  # killed at 160
        {"time": 900.0, "start": 4, "before": 160.0, "environment": environment},
        {"time": 950.0, "end": 8},
        {"time": "what", "start": None},
        {"time": 2000.0, "start": 8, "before": 949.0, "environment": environment},  # at work
    ]
    sessions = read_sessions(lines)
    assert [session.end for session in sessions] == [None, 950.0, None]
    assert seconds_at_work(sessions, last_written=2030.0) == 60 + 50 + 30
