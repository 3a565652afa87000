"""Compiled programs in the user's cache folder."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import jax
import pytest

from drsformer_jax.cli import cache


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """What JAX is told, and a cache folder of its own."""
    found: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_a_folder_of_this_machine_is_made_and_told_once(
    told: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.keep_programs()
    folder = Path(str(told["jax_compilation_cache_dir"]))
    assert folder.parent == tmp_path / "cache" / "drsformer_jax"
    assert folder.is_dir()
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0
    assert f"kept in {folder.parent}" in caplog.text
    caplog.clear()
    cache.keep_programs()
    assert not caplog.records


def test_another_number_of_cores_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = cache._machine()
    assert here == cache._machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(999)), raising=False)
    assert cache._machine() != here


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_what_the_user_told_jax_holds(
    name: str, told: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "elsewhere")
    cache.keep_programs()
    assert told == {}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_note(
    told: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.WARNING):
        cache.keep_programs()
    assert told == {}
    (record,) = caplog.records
    assert "programs cannot be kept: " in record.getMessage()
    assert "Not a directory: " in record.getMessage()


def test_the_oldest_programs_are_removed(
    told: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.keep_programs()
    folder = Path(str(told["jax_compilation_cache_dir"]))
    for age in range(5):
        program = folder / f"{age}-cache"
        program.write_bytes(bytes(10))
        os.utime(program, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(cache, "LARGEST", 25)
    cache.keep_programs()
    assert sorted(path.name for path in folder.iterdir()) == ["0-cache", "1-cache"]


def test_a_folder_of_another_user_is_not_used(
    told: dict[str, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    cache.keep_programs()
    assert told == {}
    assert "drsformer_jax belongs to another user" in caplog.messages[-1]


def test_a_program_that_was_half_written_is_removed(
    told: dict[str, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: others.append(str(message)))
    cache.keep_programs()
    folder = Path(str(told["jax_compilation_cache_dir"]))
    (folder / "jit_f-1-cache").touch()
    (folder / "jit_g-2-cache").touch()
    begins = "Error reading persistent compilation cache entry for"
    for text in (f"{begins} 'jit_f': error: incomplete", "another"):
        warnings.showwarning(text, UserWarning, "", 1)
    assert [path.name for path in folder.iterdir()] == ["jit_g-2-cache"]
    assert others == ["another"]
    assert caplog.messages[1:] == [f"{begins} 'jit_f': error: incomplete: it is compiled anew"]
