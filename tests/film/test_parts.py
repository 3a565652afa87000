"""Films that were not finished at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference.films import derain, write_film

from drsformer_jax.errors import UserError
from drsformer_jax.film import restoring
from drsformer_jax.film.encoding import Encoding


def test_a_resumed_film_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)  # 4 frames
    source = write_film(tmp_path / "wet.mp4", frames=14)
    whole, _ = derain(source, tmp_path / "whole.mp4", restore=np.invert)
    left = [6, 3, 6, 100]

    def killed(image: np.ndarray) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return np.invert(image)

    resumed = tmp_path / "resumed.mp4"
    parts = []
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            derain(source, resumed, restore=killed)
        assert not resumed.exists()
        parts.append(sorted(path.name for path in Path(f"{resumed}.parts").iterdir()))
        left.pop(0)
    names = [f"{number:06d}.npz" for number in range(3)]
    assert parts == [[*names[:1], "job.json"], [*names[:1], "job.json"], [*names[:2], "job.json"]]
    # What a killed process was writing.
    (Path(f"{resumed}.parts") / ".drsformer.torn.npz").write_bytes(b"torn")
    seen: list[bool] = []
    _, outcome = derain(source, resumed, restore=killed, on_frame=seen.append)
    assert seen == [False] * 8 + [True] * 6
    assert outcome.frames == 14
    assert resumed.read_bytes() == whole.read_bytes()
    assert not Path(f"{resumed}.parts").exists()


def test_parts_of_another_job_are_not_taken(tmp_path: Path) -> None:
    source = write_film(tmp_path / "wet.mp4", frames=3)
    destination = tmp_path / "dry.mp4"
    folder = Path(f"{destination}.parts")

    def broken(image: np.ndarray) -> np.ndarray:
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        derain(source, destination, restore=broken)
    with pytest.raises(UserError, match=rf"{folder}: .*\(not the same crf\).*--overwrite"):
        derain(source, destination, encoding=Encoding(crf=30))
    other = write_film(tmp_path / "other.mp4", frames=4)
    with pytest.raises(UserError, match=r"\(not the same input\)"):
        derain(other, destination)
    _, outcome = derain(other, destination, overwrite=True)
    assert outcome.frames == 4
    # A folder of somebody else.
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"in the way"):
            derain(source, destination, overwrite=overwrite)
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_damaged_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)
    source = write_film(tmp_path / "wet.mp4", frames=8)
    number = iter(range(100))

    def spoil(image: np.ndarray) -> np.ndarray:
        if next(number) == 5:
            (tmp_path / "dry.mp4.parts" / "000000.npz").write_bytes(b"PK")
        return image

    with pytest.raises(UserError, match=r"000000.npz: is damaged: remove it"):
        derain(source, restore=spoil)
    assert not (tmp_path / "dry.mp4").exists()
    (tmp_path / "dry.mp4.parts" / "000000.npz").unlink()
    assert derain(source)[1].frames == 8


def test_only_the_first_frame_of_a_film_has_to_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "PART_SECONDS", 0.16)
    source = write_film(tmp_path / "wet.mp4", frames=8)
    number = iter(range(100))

    def fails(image: np.ndarray) -> np.ndarray:
        called = next(number)
        if called == 4:
            raise KeyboardInterrupt
        if called == 5:  # the first of the second run
            raise FloatingPointError("not finite")
        return image

    with pytest.raises(KeyboardInterrupt):
        derain(source, restore=fails)
    _, outcome = derain(source, restore=fails)
    assert (outcome.frames, outcome.rainy) == (8, 1)


def test_a_film_is_one_runs(tmp_path: Path) -> None:
    source, destination = write_film(tmp_path / "wet.mkv", frames=2), tmp_path / "dry.mkv"

    def second(image: np.ndarray) -> np.ndarray:
        with pytest.raises(UserError, match=r"dry\.mkv\.parts: another run is at work"):
            derain(source, destination)
        return image

    derain(source, destination, second)
    assert destination.is_file()
    assert not (tmp_path / "dry.mkv.parts").exists()
