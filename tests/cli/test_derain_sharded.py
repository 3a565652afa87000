"""`drsformer derain` as a job of several parts: the files of one run, and never others."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.films import write_film

from drsformer_jax.cli import derain_work, film
from drsformer_jax.cli.main import main
from drsformer_jax.data.images import write_png
from drsformer_jax.film import restoring
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In it `photos` of two sizes; every value is halved in the place of the network."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(
            0, 256, (9 + number % 2 * 8, 11, 3), np.uint8
        )
        path = Path("photos", "below" if number % 3 == 0 else "", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, pixels)
    network = Derainer(PRESETS["tiny"], {}, restore=lambda _, image: 0.5 * image)
    monkeypatch.setattr(Derainer, "load", staticmethod(lambda *_, **__: network))
    monkeypatch.setattr(film, "weights_of", str)


def derain(*arguments: str) -> int:
    return main(["derain", "photos", "--recursive", *arguments])


def contents(folder: str) -> dict[str, bytes]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.relative_to(folder).parts[0] != ".drsformer"
    }


def done_by(writer: str) -> list[str]:
    lines = Path("out/.drsformer/ledger", f"{writer}.jsonl").read_text().splitlines()
    return [row["id"] for row in map(json.loads, lines) if row["status"] == "done"]


def test_parts_make_what_one_run_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert derain("-o", "plain") == 0
    assert not Path("plain/.drsformer").exists()
    assert derain("-o", "out", "--shard", "2/2") == 0
    capsys.readouterr()
    assert main(["derain", "--status", "out"]) == 1
    own = done_by("part-2-of-2")
    told = capsys.readouterr().out
    assert f"done     {len(own)}\n" in told
    assert f"missing  {8 - len(own)}\n" in told
    assert derain("-o", "out", "--shard", "1/2") == 0
    assert main(["derain", "--status", "out"]) == 0
    assert contents("out") == contents("plain")
    assert len(contents("out")) == 8
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    capsys.readouterr()
    # With another number of parts, too.
    assert derain("-o", "out", "--shard", "1/1") == 0
    assert capsys.readouterr().out == "8 of 8 are done already\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_has_changed_is_done_again() -> None:
    assert derain("-o", "out", "--shard", "1/1") == 0
    Path("out/1.png").unlink()
    source = Path("photos/2.png")
    status = source.stat()
    write_png(source, np.zeros((9, 11, 3), np.uint8))
    # Back in time, as from a backup.
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns - 10**12))
    assert derain("-o", "out", "--shard", "1/1") == 0
    assert sorted(done_by("part-1-of-1")[8:]) == ["1.png", "2.png"]
    assert derain("-o", "plain") == 0
    assert contents("out") == contents("plain")


def test_two_networks_are_never_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert derain("-o", "out", "--shard", "1/2") == 0
    before = contents("out")
    for flags in (["--weights", "W"], ["--blend", "uniform"]):
        capsys.readouterr()
        assert derain("-o", "out", "--shard", "2/2", *flags) == 2
        told = capsys.readouterr()
        assert f"out: holds results made otherwise (not the same {flags[0][2:]})" in told.err
        assert "--overwrite to begin anew" in told.err
        assert (told.out, told.err.count("\n")) == ("", 1)
        assert contents("out") == before
    assert derain("-o", "out", "--skip-existing", "--weights", "W") == 2
    # Begun anew, for the other parts, too, and a part that comes again goes on.
    for _ in range(2):
        assert derain("-o", "out", "--shard", "2/2", "--weights", "W", "--overwrite") == 0
    assert main(["derain", "--status", "out"]) == 1
    assert derain("-o", "out", "--shard", "1/2", "--weights", "W", "--overwrite") == 0
    assert main(["derain", "--status", "out"]) == 0
    assert len(done_by("part-1-of-2")) == 2 * len(before)


def test_a_bad_file_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/bad.png").write_text("no image")
    assert derain("-o", "out", "--shard", "1/1") == 1
    assert "error: photos/bad.png: not an image in a known format" in capsys.readouterr().err
    assert main(["derain", "--status", "out"]) == 1
    assert "failed   1\n" in capsys.readouterr().out
    write_png(Path("photos/bad.png"), np.zeros((9, 11, 3), np.uint8))
    assert derain("-o", "out", "--shard", "1/1") == 0
    assert main(["derain", "--status", "out"]) == 0


def test_what_is_there_is_skipped_and_known() -> None:
    assert derain("-o", "out", "--suffix", "_dry") == 0
    Path("out/1_dry.png").unlink()
    Path("out/2_dry.png").write_text("mine")
    assert derain("-o", "out", "--suffix", "_dry", "--skip-existing") == 0
    assert Path("out/2_dry.png").read_text() == "mine"
    assert main(["derain", "--status", "out"]) == 0
    # In the folder of the inputs, where results are no inputs.
    for _ in range(2):
        assert derain("-o", "photos", "--suffix", "_dry", "--skip-existing") == 0
    assert len(list(Path("photos").rglob("*_dry.png"))) == 8


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("-o photos --shard 1/2 --suffix _x", "holds inputs, and results would"),
        ("-o one.png --shard 1/2", "is one file, for 8 images"),
        ("-o out --shard 3/2", "--shard 3/2: must be I/N"),
        ("-o out --workers 2", "--workers: goes with --engine"),
        ("-o out --engine processes --workers 0", "--workers 0: must be positive"),
        ("-o out --engine processes --address auto", "--address, --resources: are of --engine ray"),
        ("-o out --engine ray --resources TPU", "--resources TPU: must be like GPU=1"),
        ("-o out --engine rays", "did you mean ray?"),
        ("--status out", "out: no job was begun here"),
    ],
)
def test_mistakes(flags: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert derain(*flags.split()) == 2
    told = capsys.readouterr()
    assert why in told.err
    assert "Traceback" not in told.err
    assert sorted(Path().rglob("*")) == before


def test_sigterm_ends_after_the_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restore = derain_work.derain_image

    def interrupted(*arguments: Any) -> tuple[int, int]:
        if not list(Path("out").rglob("*.png")):
            os.kill(os.getpid(), signal.SIGTERM)
        return restore(*arguments)

    monkeypatch.setattr(derain_work, "derain_image", interrupted)
    assert derain("-o", "out", "--shard", "1/1") == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped; the same command goes on\n"
    assert len(contents("out")) == len(done_by("part-1-of-1")) == 1
    assert derain("-o", "out", "--shard", "1/1") == 0
    assert len(contents("out")) == len(done_by("part-1-of-1")) == 8


@pytest.mark.parametrize("inputs", [["photos"], ["clip.mkv"]])
def test_parts_that_begin_at_once(inputs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One may make the folder while another one looks whether it is there."""
    write_film(Path("clip.mkv"), frames=2)
    is_dir = Path.is_dir

    def made_meanwhile(path: Path, **options: Any) -> bool:
        found = is_dir(path, **options)
        if str(path) == "out" and not found:
            path.mkdir()
        return found

    monkeypatch.setattr(Path, "is_dir", made_meanwhile)
    assert main(["derain", *inputs, "-o", "out", "--shard", "1/1"]) == 0


def test_parts_of_a_film(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)  # 4 frames
    write_film(Path("clip.mkv"), frames=18)
    assert main(["derain", "clip.mkv", "-o", "plain"]) == 0
    assert main(["derain", "clip.mkv", "-o", "out", "--shard", "2/2"]) == 0
    names = [f"{number:06d}.npz" for number in (1, 3)] + ["job.json"]
    assert sorted(path.name for path in Path("out/clip.mkv.parts").iterdir()) == names
    assert main(["derain", "--status", "out"]) == 1
    assert main(["derain", "clip.mkv", "-o", "out", "--shard", "1/2"]) == 0
    assert main(["derain", "--status", "out"]) == 0
    assert contents("out") == contents("plain")
    assert done_by("part-2-of-2") == ["clip.mkv#000001", "clip.mkv#000003"]
    assert done_by("part-1-of-2")[-1] == "clip.mkv"
