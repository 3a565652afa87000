"""What cannot be printed stops no work."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drsformer_jax.cli.output import print_safely

NAME = os.fsdecode(b"Stra\xdfe.png")


@pytest.fixture
def printing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a program that prints and then works, with these streams."""

    def run(stdout: object, stderr: object, code: int = 0) -> int:
        done = []

        def work() -> int:
            for _ in range(2):
                print(NAME, "\u96e8", flush=True)
                print(NAME, file=sys.stderr)
                done.append(True)
            return code

        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        ended = print_safely("program", work)
        assert done == [True, True]
        assert (sys.stdout, sys.stderr) == (stdout, stderr)
        return ended

    return run


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("write_through", [False, True])
def test_any_name_in_any_encoding(
    encoding: str, write_through: bool, tmp_path: Path, printing: Callable[..., int]
) -> None:
    def stream(name: str) -> io.TextIOWrapper:
        raw = open(tmp_path / name, "wb", buffering=0)  # noqa: SIM115
        return io.TextIOWrapper(raw, encoding, "strict", write_through=write_through)

    with stream("out") as out, stream("err") as err:
        assert printing(out, err) == 0
    rain = "\u96e8".encode(encoding, "backslashreplace")
    assert (tmp_path / "out").read_bytes() == 2 * (b"Stra\\udcdfe.png " + rain + b"\n")
    assert (tmp_path / "err").read_bytes() == 2 * b"Stra\\udcdfe.png\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("code", "ended", "lines"), [(0, 2, 1), (1, 2, 1), (2, 2, 0)])
def test_a_full_disk(
    code: int, ended: int, lines: int, tmp_path: Path, printing: Callable[..., int]
) -> None:
    with open("/dev/full", "w") as out, (tmp_path / "err").open("w") as err:
        assert printing(out, err, code) == ended
    told = (tmp_path / "err").read_text().splitlines()[2:]
    assert len(told) == lines
    assert all("program: error: " in line and "No space left" in line for line in told)
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        assert printing(out, err, code) == ended


def test_a_reader_that_went_away(tmp_path: Path, printing: Callable[..., int]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out, (tmp_path / "err").open("w") as err:
        assert printing(out, err) == 141
    assert len((tmp_path / "err").read_text().splitlines()) == 2


def test_streams_that_are_closed(printing: Callable[..., int]) -> None:
    assert printing(None, None) == 0


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def work() -> int:
        print("before")
        raise RuntimeError("bug")

    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(RuntimeError, match="bug"):
            print_safely("program", work)
        assert sys.stdout is out
    assert (tmp_path / "out").read_text() == "before\n"


def test_warnings_are_bare_lines_whoever_sets_logging_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As in a program: pytest has handlers of its own.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def work() -> int:
        logging.basicConfig()  # what libraries do
        logging.getLogger("drsformer_jax.data").warning("%s: left out", "a\nb")
        return 0

    assert print_safely("program", work) == 0
    assert capsys.readouterr().err == "a\\nb: left out\n"
