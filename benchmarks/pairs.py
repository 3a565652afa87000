"""Programs that are compared run in turn, each in a process of its own.

Times of one program drift by 10 to 20 % from minute to minute on a shared machine, and two
libraries in one process fight over threads and memory. So each program gets a process that builds
it, warms it up and then waits; the parent asks one after the other, A B C A B C ..., and what
counts is the ratio within a turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks import machine
from drsformer_jax.errors import UserError

# Threads of a program that has just finished may spin for a moment, waiting for more work.
PAUSE_SECONDS = 0.2

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass
class Program:
    """What a process has built and is asked to run.

    Attributes:
      run: does the work once and returns when it is done; or returns the seconds of that part of
        it that counts.
      output: what the last run computed, by name; programs that are compared must agree on it.
      facts: what building told, such as "compile_seconds"; values that JSON knows.
      device_peak_bytes: the most memory of an accelerator in use so far; None on CPU.
    """

    run: Callable[[], float | None]
    output: Callable[[], Outputs] = dict
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    device_peak_bytes: Callable[[], int] | None = None


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of some measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.lowest:.3g}..{self.highest:.3g})"


class Worker:
    """A process that holds one program.

        with Worker(build, size=128) as worker:
            seconds = worker.run()

    Attributes:
      facts: of the program, and "built_bytes", what was resident when it was built.
    """

    def __init__(self, build: Callable[..., Program], **settings: Any) -> None:
        """Starts the process and waits until it has called `build(**settings)`.

        Args:
          build: a function of a module; it imports what it needs, for the process is a fresh one.

        Raises:
          BrokenProcessPool: the process died, as one does for which there is no memory.
          Exception: what `build` raised, with its traceback.
        """
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.facts: dict[str, Any] = self._ask(_build, build, settings)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()

    def run(self) -> float:
        """Runs the program once; the seconds it took."""
        return float(self._ask(_run))

    def output(self) -> Outputs:
        """What the last run computed."""
        result: Outputs = self._ask(_output)
        return result

    def peak_bytes(self) -> int:
        """The most memory since it was built: of the accelerator, or of the process on CPU."""
        return int(self._ask(_peak_bytes))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._pool.submit(function, *arguments).result()
        except BaseException:
            self._pool.shutdown(wait=False)
            raise


# In the worker's process: its program.
_programs: list[Program] = []


def _build(build: Callable[..., Program], settings: Mapping[str, Any]) -> dict[str, Any]:
    program = build(**settings)
    _programs.append(program)
    built = {"built_bytes": machine.resident_bytes(), "build_peak_bytes": machine.peak_bytes()}
    machine.reset_peak()
    return {**program.facts, **built}


def _run() -> float:
    start = time.perf_counter()
    seconds = _programs[0].run()
    return time.perf_counter() - start if seconds is None else seconds


def _output() -> Outputs:
    return _programs[0].output()


def _peak_bytes() -> int:
    return (_programs[0].device_peak_bytes or machine.peak_bytes)()


@contextlib.contextmanager
def started(
    programs: Mapping[str, tuple[Callable[..., Program], Mapping[str, Any]]],
) -> Iterator[dict[str, Worker]]:
    """A process for each (build, settings), by name, until they are no longer needed."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Worker(build, **settings))
            for name, (build, settings) in programs.items()
        }


def take_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[float]]:
    """Runs all programs in turn, `rounds` times; seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(PAUSE_SECONDS)
            seconds[name].append(worker.run())
    return seconds


def check(
    workers: Mapping[str, Worker],
    expected: Outputs,
    source: str,
    limits: Mapping[str, float],
) -> dict[str, float]:
    """Holds what every program computed last against what is expected.

    Args:
      expected: by name, as `Worker.output` tells it.
      source: what computed that, for the message.
      limits: the most that the `relative_difference` of a program may be, by program. Of one that
        is not named it is only told.

    Returns:
      The relative differences by program.

    Raises:
      UserError: a program computes something else; timing it would be worth nothing.
    """
    found = {
        name: relative_difference(worker.output(), expected) for name, worker in workers.items()
    }
    for name, limit in limits.items():
        if not found[name] <= limit:
            raise UserError(
                f"{name} disagrees with {source}: relative difference {found[name]:.2g}, at most "
                f"{limit:g} may be"
            )
    return found


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Of two programs' times, turn by turn."""
    return Spread.of(a / b for a, b in zip(numerator, denominator, strict=True))


def relative_difference(one: Outputs, other: Outputs) -> float:
    """The largest over all outputs of |one - other| / |other|, both in the L2 norm.

    Raises:
      RuntimeError: the two programs computed different things altogether.
    """
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        raise RuntimeError(f"the programs' outputs differ: {list(one)} and {list(other)}")
    return max(
        float(np.linalg.norm(one[name] - value) / np.linalg.norm(value))
        for name, value in other.items()
    )
