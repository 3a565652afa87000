"""One piece of work at a time, in the order of arrival."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any


class Cancelled(Exception):
    """Nobody waits for the job any more."""


class QueueFull(Exception):
    """No other job is taken: so many wait, or the queue is closed."""


class Job:
    """Work that waits or is done.

    Attributes:
      work: takes the job, returns what `answer` gets.
      answer: of the work, or its error; cancelled as soon as nobody waits for it.
      tile, tiles: which one of how many is being restored; 0 before the first.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self.work: Callable[[Job], Any] | None = work
        self.answer: Future[Any] = Future()
        self.tile = self.tiles = 0

    def on_tile(self, tiles: int) -> None:
        """Counts tiles. Raises Cancelled if nobody waits for them."""
        if self.answer.cancelled():
            raise Cancelled
        self.tile, self.tiles = self.tile + 1, tiles


class JobQueue:
    """A thread that does jobs one after the other.

    A job that is cancelled leaves the queue; one that is at work ends before its next tile, and
    until then nothing else begins.
    """

    def __init__(self, capacity: int) -> None:
        """Takes at most `capacity` jobs, the one at work among them."""
        self._capacity = capacity
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._arrived: queue.SimpleQueue[tuple[str, Job]] = queue.SimpleQueue()
        # A daemon: a forward cannot be interrupted, and must not keep the program from ending.
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def is_working(self) -> bool:
        """Whether a job is not yet done, though perhaps cancelled."""
        return bool(self._jobs)

    def check_room(self) -> None:
        """Raises QueueFull if no other job is taken."""
        if len(self._jobs) >= self._capacity:
            raise QueueFull

    def add(self, name: str, work: Callable[[Job], Any]) -> Job:
        """Puts work at the end. Raises QueueFull, or ValueError if there is a job of that name."""
        with self._lock:
            self.check_room()
            if name in self._jobs:
                raise ValueError(name)
            job = self._jobs[name] = Job(work)
            self._arrived.put((name, job))
        return job

    def find(self, name: str) -> tuple[int, Job] | None:
        """A job and how many are done before it; None if there is none of that name."""
        with self._lock:
            names = list(self._jobs)
            return (names.index(name), self._jobs[name]) if name in names else None

    def cancel(self, name: str) -> None:
        """Nobody waits for the job any more; one that is answered or unknown stays what it is."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None or not job.answer.cancel() or next(iter(self._jobs)) == name:
                return
            del self._jobs[name]
            job.work = None  # and the photograph that it holds

    def close(self) -> None:
        """Cancels all jobs and takes no more."""
        self._capacity = 0
        for name in list(self._jobs):
            self.cancel(name)

    def _run(self) -> None:
        while True:
            name, job = self._arrived.get()
            if job.work is not None and not job.answer.cancelled():
                self._do(job, job.work)
            with self._lock:
                if self._jobs.get(name) is job:
                    del self._jobs[name]
            del job  # with its photograph, while waiting for the next one

    @staticmethod
    def _do(job: Job, work: Callable[[Job], Any]) -> None:
        # Cancelled in the meantime, the answer takes neither.
        with contextlib.suppress(InvalidStateError):
            try:
                answer = work(job)
            except BaseException as error:
                job.answer.set_exception(error)
            else:
                job.answer.set_result(answer)
