"""`drsformer derain` of films, through the command's own entry point."""

from __future__ import annotations

import functools
import os
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from reference.films import see, write_film

from drsformer_jax.cli import film
from drsformer_jax.cli.main import main
from drsformer_jax.film import restoring
from drsformer_jax.film.pixels import Pixels
from drsformer_jax.film.source import Film
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params

TINY = PRESETS["tiny"]


@pytest.fixture
def darken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the network: every value halved."""

    def load(weights: Any = None, devices: int = 1) -> Derainer:
        params = {"seed": np.full(1, 0 if weights is None else 1)}
        return Derainer(TINY, params, restore=lambda _, image: 0.5 * image)

    monkeypatch.setattr(Derainer, "load", staticmethod(load))
    monkeypatch.setattr(film, "weights_of", str)


def test_films_and_photographs_in_one_call(
    tmp_path: Path,
    darken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(Path("clip.mp4"))
    write_film(Path("old.AVI"), codec="mpeg4", tick=Fraction(1, 25), sound=None)
    write_film(Path("folder/other.mp4"))
    Image.new("RGB", (9, 9)).save("folder/photo.png")
    assert main(["derain", "clip.mp4", "folder", "old.AVI", "clip.mp4"]) == 0
    names = ["clip.mp4", "old.mkv", "photo.png"]
    assert sorted(path.name for path in Path("derained").iterdir()) == names
    told = capsys.readouterr()
    assert "clip.mp4: about 8 frames to go, " in told.out
    assert "derained/clip.mp4  32 x 24  12 frames  " in told.out
    assert told.err == ""
    # Black is 16, and the half of what is above it is left.
    before, after = (
        see(path).planes()[:, 0].mean() for path in (Path("clip.mp4"), Path("derained/clip.mp4"))
    )
    assert after - 16 == pytest.approx((before - 16) / 2, abs=0.5)


def test_a_network_restores_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = jax.eval_shape(functools.partial(init_params, TINY), jax.random.key(0))
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: generator.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes
    )
    network = Derainer(TINY, params)
    monkeypatch.setattr(Derainer, "load", staticmethod(lambda weights, devices: network))
    # Of a size that other tests of this network compile.
    source, written = write_film(tmp_path / "clip.mkv", size=(16, 24)), tmp_path / "dry.mkv"
    assert main(["derain", str(source), "-o", str(written), "--codec", "ffv1"]) == 0
    pixels = Pixels(Film(source).look)
    for before, after in zip(Film(source).frames(), see(written).frames, strict=True):
        expected = pixels.frame(network(pixels.rgb(before)), "yuv420p", 24, 16)
        np.testing.assert_array_equal(after.to_ndarray(), expected.to_ndarray())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["clip.mp4", "-o", "clip.mp4"], "clip.mp4 would overwrite an input (clip.mp4)"),
        (["clip.mp4", "b/clip.mov", "-o", "dry.mp4"], "is one file, for 2 inputs"),
        (["clip.mp4", "b/clip.mp4"], "clip.mp4 and b/clip.mp4 to derained/clip.mp4"),
        (["clip.mp4", "-o", "."], "would overwrite an input"),
        (["clip.mp4", "-o", "there.mp4"], "there.mp4 exists beside its input clip.mp4"),
        (["clip.mp4", "-o", "-"], "-o -: a film is not written to standard output"),
        (["clip.mp4", "--suffix", "/../../x"], "--suffix /../../x: is a part of names"),
        (["clip.mp4", "-o", "dry.avi"], "-o dry.avi: is neither a folder nor a film to write"),
        (["clip.mp4", "-o", "notes.txt"], "-o notes.txt: is neither a folder nor a film to write"),
        (["clip.mp4", "-o", "dry.png"], "-o dry.png: is neither a folder nor a film to write"),
        (["photo.png", "-o", "dry.mp4"], "-o dry.mp4: derain writes png, jpg, webp"),
        (["clip.mp4", "-o", "dry.mp4", "--suffix", "_x"], "--suffix _x: is for results in a"),
        (["notes.mp4"], "notes.mp4: cannot be read as a film"),
        (["clip.mp4", "--compare"], "--compare: is for photographs"),
        (["clip.mp4", "--crf", "64"], "--crf must be 0 to 63, not 64"),
        (["clip.mp4", "--codec", "nothing"], "--codec nothing: there is no such encoder"),
        (["missing.mp4"], "missing.mp4: no such film"),
    ],
)
def test_mistakes(
    arguments: list[str],
    why: str,
    tmp_path: Path,
    darken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(Path("clip.mp4"), frames=2)
    for name in ("there.mp4", "notes.txt", "b/clip.mp4", "b/clip.mov"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(Path("clip.mp4").read_bytes())
    Path("notes.mp4").write_text("no film")
    Image.new("RGB", (9, 9)).save("photo.png")
    before = sorted(tmp_path.rglob("*"))
    assert main(["derain", *arguments]) == 2
    told = capsys.readouterr().err
    assert why in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_too_long_for_the_parts(
    tmp_path: Path,
    darken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "x" * 249 + ".mp4"
    write_film(Path(name), frames=2)
    assert main(["derain", name]) == 2
    told = capsys.readouterr().err
    assert "cannot be written (" in told
    assert told.endswith("): name another folder or file (-o)\n")
    assert main(["derain", name, "-o", "short.mkv"]) == 0
    assert main(["derain", name, "-o", "derained", "--suffix", "_dry", "--skip-existing"]) == 1
    assert "File name too long" in capsys.readouterr().err


def test_one_that_is_no_film_stops_nothing(
    tmp_path: Path,
    darken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.mp4").write_text("no film")
    write_film(Path("clip.mp4"), frames=2)
    Image.new("RGB", (9, 9)).save("photo.png")
    assert main(["derain", "bad.mp4", "clip.mp4", "photo.png"]) == 1
    assert sorted(path.name for path in Path("derained").iterdir()) == ["clip.mp4", "photo.png"]
    told = capsys.readouterr().err
    assert "error: bad.mp4: cannot be read as a film" in told
    # A film that fails later is no worse beside a photograph.
    Path("parts/clip.mp4.parts").mkdir(parents=True)
    Path("parts/clip.mp4.parts/mine").touch()
    assert main(["derain", "photo.png", "clip.mp4", "-o", "parts"]) == 1
    assert main(["derain", "clip.mp4", "-o", "parts"]) == 2
    assert main(["derain", "photo.png", "clip.mp4", "--skip-existing"]) == 0
    assert "1 of 1 films are there already" in caplog.messages


def test_flags_of_photographs(
    tmp_path: Path, darken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = "com.apple.quicktime.location.ISO6709"
    place = {"location": "+47.0000+008.0000/", "title": "rain", key: "+47/", "com.apple.make": "A"}
    write_film(
        Path("clip.mp4"), frames=2, metadata=place, options={"movflags": "+use_metadata_tags"}
    )
    assert see(Path("clip.mp4")).metadata.items() >= place.items()
    command = ["derain", "clip.mp4", "-o", "out"]
    assert main([*command, "--strip-gps", "--suffix", "_dry"]) == 0
    kept = see(Path("out/clip_dry.mp4")).metadata
    assert {name for name in place if name in kept} == {"title", "com.apple.make"}
    # Files that are there are whole.
    written = Path("out/clip_dry.mp4").stat()
    assert main([*command, "--suffix", "_dry", "--skip-existing"]) == 0
    assert Path("out/clip_dry.mp4").stat() == written
    assert main([*command, "--no-metadata"]) == 0
    assert not see(Path("out/clip.mp4")).metadata.keys() & {"location", "title"}


def test_without_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    assert main(["derain", str(tmp_path / "clip.mp4")]) == 2
    assert "a film needs av, which is not installed: pip install 'drsformer_jax[video]'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_after_a_frame(
    number: int,
    tmp_path: Path,
    darken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)  # 4 frames
    source, written = write_film(tmp_path / "clip.mkv"), tmp_path / "dry.mkv"
    command = ["derain", str(source), "-o", str(written)]
    called = [0]

    def interrupted(derainer: Derainer, image: np.ndarray, **kwargs: Any) -> np.ndarray:
        called[0] += 1
        if called[0] == 6:
            os.kill(os.getpid(), number)
        return image

    with monkeypatch.context() as patch:
        patch.setattr(Derainer, "__call__", interrupted)
        assert main(command) == 128 + number
    assert f"the same command goes on with what is in {written}.parts" in capsys.readouterr().err
    assert [path.name for path in sorted(Path(f"{written}.parts").iterdir())] == [
        "000000.npz",
        "job.json",
    ]
    # Other weights would give another film.
    assert main([*command, "--weights", "W"]) == 2
    assert "(not the same weights): " in capsys.readouterr().err
    assert main(command) == 0
    assert len(see(written).frames) == 12


def test_what_is_not_whole_is_told(
    tmp_path: Path,
    darken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = write_film(tmp_path / "whole.mkv", frames=60, tick=Fraction(1, 1000))
    source = tmp_path / "clip.mkv"
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    called = [0]

    def failing(derainer: Derainer, image: np.ndarray, **kwargs: Any) -> np.ndarray:
        called[0] += 1
        if called[0] in (2, 5):
            raise FloatingPointError("the network's output is not finite")
        return image

    monkeypatch.setattr(Derainer, "__call__", failing)
    assert main(["derain", str(source), "-o", str(tmp_path / "dry.mkv")]) == 1
    told = capsys.readouterr().err
    assert f"{source}: 2 frames could not be restored and are as they were\n" in told
    assert f"{source}: the file is cut short: what is in it is restored\n" in told
    # Where not even the first can be, nothing is.
    called[0] = 1
    assert main(["derain", str(whole), "-o", str(tmp_path / "none.mkv")]) == 2
    assert f"{whole}: the network's output is not finite" in capsys.readouterr().err
    # One of several does not keep the others from being restored.
    called[0] = 1
    assert main(["derain", str(whole), str(source), "-o", str(tmp_path / "out")]) == 1
    assert (tmp_path / "out" / "clip.mkv").exists()
