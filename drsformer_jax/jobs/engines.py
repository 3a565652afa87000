"""Who does the units of a job: this process, processes of this machine, or a Ray cluster.

What travels are names: workers read and write files themselves, and keep ledgers of their own.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from drsformer_jax.errors import UserError
from drsformer_jax.jobs.ledger import Row
from drsformer_jax.jobs.stopping import listening
from drsformer_jax.jobs.units import Unit
from drsformer_jax.jobs.working import Worker

Batches = Iterable[list[Unit]]
# Makes a worker, in the process that it works in, from the name of its ledger and what tells it to
# stop. It can be pickled.
MakeWorker = Callable[[str, Callable[[], int]], Worker]
Stopped = Callable[[], int]
# Of libtpu in a process that is alone on its chip, and of those behind it.
_TPU_PORT = 8476


class Engine(Protocol):
    """Has units done.

    Attributes:
      workers: how many do so.
    """

    workers: int

    def submit(
        self, batches: Batches, make_worker: MakeWorker, stopped: Stopped, again: bool
    ) -> Iterator[Row]:
        """The rows of what is done or has failed, in any order.

        Args:
          batches: each is given to one worker; if that dies, to another one.
          stopped: the number of the signal that asks to end, or 0: what is at hand is then ended.
          again: workers may have died of these units.

        Raises:
          UserError: there are no workers, or they die before they have done anything.
        """
        ...


class Inline:
    """This process is the worker."""

    def __init__(self, writer: str) -> None:
        self._writer, self.workers = writer, 1

    def submit(
        self, batches: Batches, make_worker: MakeWorker, stopped: Stopped, again: bool
    ) -> Iterator[Row]:
        """See `Engine`."""
        with make_worker(self._writer, stopped) as worker:
            for batch in batches:
                yield from worker.run(batch, again)


class Event(NamedTuple):
    """What became of a worker: it told rows, ended its batch, or died (`why`)."""

    number: int
    rows: list[Row]
    has_ended: bool = False
    has_died: bool = False
    why: str = ""


class Pool(Protocol):
    """Workers elsewhere, by number."""

    def start(self, number: int) -> None:
        """Makes one, also in the place of one that died."""

    def give(self, number: int, batch: list[Unit], again: bool) -> None:
        """Has one do a batch."""

    def wait(self) -> list[Event]:
        """What happened since, or nothing after a while."""

    def stop(self) -> None:
        """Asks all to end what is at hand."""

    def close(self) -> None:
        """Ends all."""


def hand_out(
    pool: Pool, workers: int, batches: Batches, stopped: Stopped, again: bool
) -> Iterator[Row]:
    """Gives batches to workers that are idle, until all is done; see `Engine.submit`."""
    coming = iter(batches)
    dropped: collections.deque[list[Unit]] = collections.deque()
    at_work: dict[int, list[Unit]] = {}
    idle = list(range(workers, 0, -1))
    in_vain, started, is_stopping = 0, set[int](), False
    try:
        while True:
            if stopped() and not is_stopping:
                is_stopping = True
                pool.stop()
            while idle and not is_stopping:
                is_again = bool(dropped)
                batch = dropped.popleft() if dropped else next(coming, None)
                if batch is None:
                    break
                number = idle.pop()
                if number not in started:
                    started.add(number)
                    pool.start(number)
                at_work[number] = batch
                pool.give(number, batch, is_again or again)
            if not at_work:
                return
            for event in pool.wait():
                in_vain = 0 if event.rows else in_vain + event.has_died
                yield from event.rows
                if not (event.has_ended or event.has_died):
                    continue
                done = at_work.pop(event.number)
                idle.append(event.number)
                if event.has_died:
                    started.discard(event.number)
                    dropped.append(done)
                    # A unit that is given up after some deaths tells a row.
                    if in_vain > 3 * workers + 3:
                        raise UserError(f"workers die before they have done anything: {event.why}")
    finally:
        pool.close()


class Processes:
    """Processes of this machine; each has one of its GPUs or TPU chips, where there are some."""

    def __init__(self, workers: int, prefix: str = "", tpu_chips: int = 0) -> None:
        """Takes how many, and what the names of their ledgers begin with."""
        self.workers, self.prefix, self.tpu_chips = workers, prefix, tpu_chips

    def submit(
        self, batches: Batches, make_worker: MakeWorker, stopped: Stopped, again: bool
    ) -> Iterator[Row]:
        """See `Engine`."""
        pool = _Processes(self, make_worker)
        yield from hand_out(pool, self.workers, batches, stopped, again)


class _Processes:
    """A `Pool`."""

    def __init__(self, engine: Processes, make_worker: MakeWorker) -> None:
        self._engine, self._make_worker = engine, make_worker
        # JAX does not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Any] = {}

    def start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        writer = f"{self._engine.prefix}worker-{number}-of-{self._engine.workers}"
        device = own_device(number, self._engine.tpu_chips, os.environ)
        process = self._context.Process(
            target=_serve, args=(theirs, self._make_worker, writer, device), daemon=True
        )
        process.start()
        theirs.close()
        self._processes[number], self._pipes[number] = process, ours

    def give(self, number: int, batch: list[Unit], again: bool) -> None:
        with contextlib.suppress(OSError):  # it died: `wait` finds out
            self._pipes[number].send((batch, again))

    def wait(self) -> list[Event]:
        numbers = {pipe: number for number, pipe in self._pipes.items()}
        return [self._event(numbers[pipe], pipe) for pipe in connection.wait(list(numbers), 0.2)]

    def _event(self, number: int, pipe: Any) -> Event:
        try:
            kind, told = pipe.recv()
        except (EOFError, OSError):
            process = self._processes.pop(number)
            process.join()
            del self._pipes[number]
            return Event(number, [], has_died=True, why=f"exit code {process.exitcode}")
        if kind == "error":
            raise UserError(told)
        return Event(number, [told] if kind == "row" else [], has_ended=kind == "end")

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()

    def close(self) -> None:
        for pipe in self._pipes.values():
            pipe.close()
        for process in self._processes.values():
            process.join()


def _serve(pipe: Any, make_worker: MakeWorker, writer: str, device: dict[str, str]) -> None:
    """In the process of a worker: does what comes through the pipe, until that is closed."""
    os.environ.update(device)
    with listening() as stopped:
        try:
            with make_worker(writer, stopped) as worker:
                while True:
                    batch, again = pipe.recv()
                    for row in worker.run(batch, again):
                        pipe.send(("row", row))
                    pipe.send(("end", None))
        except (EOFError, BrokenPipeError):
            return
        except UserError as error:
            pipe.send(("error", str(error)))


def own_device(number: int, tpu_chips: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a worker sees one device alone; none where there are no such devices.

    Args:
      number: of the worker, from 1.
      tpu_chips: of this machine.
    """
    if tpu_chips:
        chip = (number - 1) % tpu_chips
        port = str(_TPU_PORT + chip)
        return {
            **{"TPU_VISIBLE_CHIPS": str(chip), "TPU_PROCESS_BOUNDS": "1,1,1"},
            **{"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "CLOUD_TPU_TASK_ID": "0"},
            **{"TPU_PROCESS_ADDRESSES": f"localhost:{port}", "TPU_PROCESS_PORT": port},
        }
    given = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    if given is not None:
        gpus = [gpu for gpu in given.split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": sorted(gpus)[(number - 1) % len(gpus)]} if gpus else {}
