"""What is written appears whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import pytest

from drsformer_jax.files import atomic_folder, atomic_path, write_json, write_rows


def test_a_file_replaces_another_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_replaces_another_when_it_is_whole(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "checkpoint"
    if exists:
        path.mkdir()
        (path / "old").touch()
    with atomic_folder(path) as folder:
        (folder / "new").touch()
        assert path.exists() == exists
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:  # noqa: PT012
        (folder / "new").touch()
        raise RuntimeError
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_words_for_what_is_not_finite(tmp_path: Path) -> None:
    document = {"a": [1.5, math.inf, (math.nan,)], "b": {"c": -math.inf, "d": None}}
    write_json(tmp_path / "x.json", document)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read == {"a": [1.5, "inf", ["nan"]], "b": {"c": "-inf", "d": None}}


@pytest.mark.skipif(os.name != "posix", reason="no pipes among files")
def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    pipe, sink, link = (tmp_path / name for name in ("pipe", "sink", "link"))
    os.mkfifo(pipe)
    sink.symlink_to(os.devnull)
    link.symlink_to("file")
    (tmp_path / "file").write_text("old")
    for path in (pipe, sink):
        with pytest.raises(OSError, match="is a device, a pipe"), atomic_path(path):
            raise AssertionError("begun")
    assert (pipe.is_fifo(), sink.is_symlink()) == (True, True)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert (link.read_text(), (tmp_path / "file").read_text()) == ("new", "old")
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("suffix", [".png", ".safetensors", "", "." + 240 * "s"])
@pytest.mark.parametrize("letter", ["a", "ü", "雨"])
def test_names_may_be_as_long_as_the_file_system_has_them(
    letter: str, suffix: str, tmp_path: Path
) -> None:
    room = 255 - len(suffix)
    size = len(letter.encode())
    name = letter * (room // size) + "a" * (room % size) + suffix
    files, folders = tmp_path / "files", tmp_path / "folders"
    files.mkdir()
    folders.mkdir()
    with atomic_path(files / name) as temporary:
        temporary.write_text("new")
    with atomic_folder(folders / name) as folder:
        (folder / "new").touch()
    assert [path.name for path in files.iterdir()] == [name]
    assert [path.name for path in folders.iterdir()] == [name]


def test_a_link_to_a_folder_stands_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["new"]


def test_names_that_are_no_text_are_written_with_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"Stra\xdfe ") + "ü雨"
    write_json(tmp_path / "x.json", {"name": name})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"name": name}
    write_rows(tmp_path / "x.csv", [[name, 1.5]])
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["Stra\\udcdfe ü雨", "1.5"]]
