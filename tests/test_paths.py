"""Paths that users name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.paths import (
    files_below,
    ignores_case,
    is_one_of,
    is_stream,
    likelier,
    local_path,
    nothing_at,
    require_readable,
    require_text,
)


@pytest.mark.parametrize(
    "text", ["gs://bucket/a", "file:///a", "x/s3://b", "gs:/bucket", "C:/x", r"C:\x", r"\\a\x"]
)
def test_an_address_is_no_path(text: str) -> None:
    with pytest.raises(UserError, match=f"^-o {re.escape(text)}: is an address"):
        local_path(text, "-o")


def test_nothing_is_no_path() -> None:
    with pytest.raises(UserError, match=r"^-o: is empty"):
        local_path("", "-o")


def test_home_is_where_the_tilde_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x") == tmp_path / "x"
    assert local_path("x~/~") == Path("x~/~")


def test_the_home_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^-o ~no_such/x: .* no user 'no_such' .*type \./~no_such/x"
    ):
        local_path("~no_such/x", "-o")
    Path("~old.png").touch()
    Path("a:").mkdir()
    # What is there is meant.
    assert local_path("~old.png") == Path("~old.png")
    assert local_path("a:/") == Path("a:")


def test_what_is_printed_to_is_no_file_to_write(tmp_path: Path) -> None:
    file, link = tmp_path / "printed", tmp_path / "stdout"
    program = "import sys; from drsformer_jax.paths import *; print(is_stream(Path(sys.argv[1])))"
    link.symlink_to("printed")  # as /dev/stdout leads to what the shell opened
    for path, told in ((link, "True\n"), (tmp_path, "False\n"), (tmp_path / "new", "False\n")):
        with file.open("w") as stdout:
            subprocess.run([sys.executable, "-c", program, path], stdout=stdout, check=True)
        assert file.read_text() == told
    assert not is_stream(file)


def test_what_leads_nowhere_is_not_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").symlink_to("gone.png")
    Path("file").touch()
    told = "photo.png: no such file (a link to gone.png, which is not there)"
    assert str(nothing_at(Path("photo.png"), "file")) == told
    assert str(nothing_at(Path("file"), "folder")) == "file: no such folder"
    assert str(nothing_at(Path("fiel"))) == "fiel: no such file or folder (did you mean file?)"


def test_a_path_that_cannot_be_is_told() -> None:
    with pytest.raises(UserError, match="xxx: File name too long"):
        local_path("x" * 256)


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    for name in ("one", "one/photo.png"):
        with pytest.raises(UserError, match=f"--json .*{name}: Too many levels of symbolic links"):
            local_path(str(tmp_path / name), "--json")


def test_folders_of_checkpoints_are_text(tmp_path: Path) -> None:
    require_text(tmp_path / "ü" / "雨")
    with pytest.raises(UserError, match="name is UTF-8"):
        require_text(tmp_path / os.fsdecode(b"\xdf") / "run")


def test_a_file_is_known_under_any_name(tmp_path: Path) -> None:
    file, other = tmp_path / "a" / "file", tmp_path / "a" / "other"
    file.parent.mkdir()
    file.touch()
    other.touch()
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    (tmp_path / "b").symlink_to("a")
    for name in ("a/file", "link", "hard", "b/file", "b/../a/file"):
        assert is_one_of(tmp_path / name, [other, file])
        assert is_one_of(file, [tmp_path / name])
        assert not is_one_of(tmp_path / name, [other])
    assert not is_one_of(tmp_path / "none", [tmp_path / "none"])


def test_what_may_have_been_meant(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    assert likelier(tmp_path / "photos.png") == f" (did you mean {tmp_path / 'photo.png'}?)"
    # It is there, and a folder was asked for.
    assert likelier(tmp_path / "photo.png") == ""


def test_files_below_end_where_links_go_round(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to("a")
    assert [path.name for path in files_below(tmp_path)] == ["file"]


def test_letters_case(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert ignores_case(tmp_path) == (tmp_path / "A").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_that_are_kept_from_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "pipe")
    require_readable(tmp_path)
    require_readable(tmp_path / "nowhere")
    # Rights do not bind whoever runs tests as root.
    real = os.open

    def refusing(path: str, *args: int) -> int:
        if path.endswith("file"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args)

    monkeypatch.setattr(os, "open", refusing)
    for files in (None, ["a/gone", "a/file"]):
        with pytest.raises(UserError, match=r"a/file: may not be read .*: make .* readable"):
            require_readable(tmp_path, files)
    require_readable(tmp_path, ["a/gone", "a/pipe"])
