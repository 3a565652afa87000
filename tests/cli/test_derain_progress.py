"""What is told of a whole folder: programs, a summary, an interruption."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from drsformer_jax.cli import derain_work
from drsformer_jax.cli.derain_progress import Tally
from drsformer_jax.cli.main import main
from drsformer_jax.data.images import write_png
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of two padded sizes, and a function in the place of the network."""
    derainer = Derainer(PRESETS["tiny"], {}, restore=lambda _, image: image)
    monkeypatch.setattr(Derainer, "load", staticmethod(lambda *_, **__: derainer))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a", (21, 13)), ("b", (13, 21)), ("c", (20, 13))):
        write_png(folder / f"{name}.png", np.zeros((*size, 3), np.uint8))
    return folder


def test_a_folder_is_planned_and_summed_up(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "d.png").write_bytes(b"broken")
    assert main(["derain", str(photos), "-o", str(tmp_path / "out")]) == 1
    first, *lines, last = capsys.readouterr().out.splitlines()
    # Another function than the network's has no program that sizes could share.
    assert first == "2 programs for 2 sizes"
    assert len(lines) == 3
    summary = r"3 images, 1 failed, 0\.0 megapixels in [0-9.]+ s, of which [0-9.]+ s compiling"
    assert re.fullmatch(summary, last)


def test_compiling_is_counted_while_it_is_watched() -> None:
    def record(seconds: float) -> None:
        jax.monitoring.record_event_duration_secs(COMPILED, seconds)
        jax.monitoring.record_event_duration_secs("/jax/another", seconds)

    tally = Tally(2)
    record(100.0)
    with tally.watching():
        tally.restored(1000, 1500)
        record(2.0)
        record(0.5)
    record(100.0)
    assert tally.summary(0).startswith("1 image, 1.5 megapixels in ")
    assert tally.summary(0).endswith(" s, of which 2.5 s compiling")


def test_one_image_is_told_in_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["derain", str(photos / "a.png"), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_an_interruption_says_what_is_done(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(derainer: Any, job: Any, *_: Any) -> tuple[int, int]:
        if job.source.name == "b.png":
            raise KeyboardInterrupt
        return 13, 21

    monkeypatch.setattr(derain_work, "derain_image", interrupted)
    assert main(["derain", str(photos), "-o", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "interrupted: 1 of 3 images are done\n"
