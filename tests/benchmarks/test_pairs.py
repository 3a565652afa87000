"""How programs are measured, each in a process of its own."""

from __future__ import annotations

import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import trivial_programs

from benchmarks.pairs import (
    Spread,
    Worker,
    check,
    ratio,
    relative_difference,
    take_turns,
)
from drsformer_jax.errors import UserError


def test_a_program_runs_in_a_process_of_its_own() -> None:
    with Worker(trivial_programs.sleeper, seconds=0.2) as worker:
        assert worker.facts["compile_seconds"] == 0.5
        assert worker.facts["pid"] != os.getpid()
        assert 0.2 <= worker.run() < 2
        np.testing.assert_array_equal(worker.output()["result"], [1.0])


def test_a_program_may_tell_its_seconds_itself() -> None:
    with Worker(trivial_programs.own_clock) as worker:
        assert worker.run() == 12.0


def test_programs_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pairs.PAUSE_SECONDS", 0)
    log = tmp_path / "log"
    with (
        Worker(trivial_programs.logger, path=str(log), name="a") as a,
        Worker(trivial_programs.logger, path=str(log), name="b") as b,
    ):
        seconds = take_turns({"a": a, "b": b}, 3)
    assert log.read_text() == "ababab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read in /proc")
def test_the_peak_is_that_of_the_runs_and_not_of_building() -> None:
    with Worker(trivial_programs.hoarder, built_megabytes=300, run_megabytes=100) as worker:
        built = worker.facts["built_bytes"]
        assert worker.facts["build_peak_bytes"] > built + 250 * 2**20
        assert worker.peak_bytes() < built + 50 * 2**20
        worker.run()
        assert 90 * 2**20 < worker.peak_bytes() - built < 150 * 2**20


EXPECTED = {"result": np.array([1.0])}


def test_programs_are_warmed_up_and_held_against_what_is_expected() -> None:
    with (
        Worker(trivial_programs.sleeper, seconds=0.1, result=1.01) as a,
        Worker(trivial_programs.sleeper, seconds=0, result=2.0) as b,
    ):
        workers = {"a": a, "b": b}
        assert take_turns(workers, 1)["a"][0] >= 0.1
        found = check(workers, EXPECTED, "the book", {"a": 0.02})  # b is not held
        assert found == {"a": pytest.approx(0.01), "b": pytest.approx(1.0)}
        with pytest.raises(UserError, match="b disagrees with the book: relative difference 1, at"):
            check(workers, EXPECTED, "the book", {"a": 0.02, "b": 0.02})


def test_a_value_that_is_no_number_disagrees() -> None:
    with (
        Worker(trivial_programs.sleeper, seconds=0, result=float("nan")) as a,
        pytest.raises(UserError, match="disagrees"),
    ):
        check({"a": a}, EXPECTED, "the book", {"a": 0.1})


def test_errors_come_back() -> None:
    with pytest.raises(UserError, match="no such network"):
        Worker(trivial_programs.mistaken)
    with pytest.raises(ZeroDivisionError, match="while building"):
        Worker(trivial_programs.broken)
    with (
        Worker(trivial_programs.breaks_later) as worker,
        pytest.raises(ZeroDivisionError, match="while running"),
    ):
        worker.run()
    with (
        Worker(trivial_programs.dies) as worker,
        pytest.raises(BrokenProcessPool, match="terminated abruptly"),
    ):
        worker.run()


def test_spread_and_ratio() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert str(Spread(2.0, 1.0, 3.0)) == "2 (1..3)"
    # Within the turns: the third one was slow for both.
    assert ratio([2.0, 4.0, 20.0], [1.0, 1.0, 10.0]) == Spread(2.0, 2.0, 4.0)


def test_differences() -> None:
    one, other = {"x": np.array([1.0, 2.0])}, {"x": np.array([1.0, 4.0])}
    assert relative_difference(one, other) == pytest.approx(2 / 17**0.5)
    with pytest.raises(RuntimeError, match="outputs differ"):
        relative_difference(one, {"y": np.array([1.0, 4.0])})
