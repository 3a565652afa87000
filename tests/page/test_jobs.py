"""The queue: one at a time, in order, and what becomes of those whom nobody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from drsformer_jax.page.jobs import Cancelled, Job, JobQueue, QueueFull

PATIENCE = 10


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def waiting_for(gate: threading.Event, then: Callable[[Job], object]) -> Callable[[Job], object]:
    def work(job: Job) -> object:
        assert gate.wait(PATIENCE)
        return then(job)

    return work


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_jobs_are_done_one_after_the_other_in_their_order(gate: threading.Event) -> None:
    jobs, log = JobQueue(5), []
    added = [
        jobs.add(f"job-{i}", waiting_for(gate, lambda job, i=i: log.append(i) or i))
        for i in range(3)
    ]
    assert [jobs.find(f"job-{i}") for i in range(3)] == list(enumerate(added))
    assert log == []
    gate.set()
    assert [job.answer.result(PATIENCE) for job in added] == [0, 1, 2]
    assert log == [0, 1, 2]
    wait_until(lambda: not jobs.is_working)
    assert jobs.find("job-0") is None


def test_errors_are_the_answer_and_do_not_stop_the_next() -> None:
    jobs = JobQueue(5)
    failed = jobs.add("failing", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.answer.result(PATIENCE)
    assert jobs.add("next", lambda job: "done").answer.result(PATIENCE) == "done"


def test_a_job_too_many_is_refused(gate: threading.Event) -> None:
    jobs = JobQueue(2)
    jobs.add("one", waiting_for(gate, str))
    jobs.add("two", waiting_for(gate, str))
    with pytest.raises(QueueFull):
        jobs.add("three", str)
    with pytest.raises(QueueFull):
        jobs.check_room()
    jobs.cancel("two")
    jobs.add("three", str)


def test_a_name_is_taken_once(gate: threading.Event) -> None:
    jobs = JobQueue(5)
    jobs.add("one", waiting_for(gate, str))
    with pytest.raises(ValueError, match="one"):
        jobs.add("one", str)


def test_who_waits_and_is_cancelled_is_never_begun(gate: threading.Event) -> None:
    jobs, log = JobQueue(5), []
    first = jobs.add("first", waiting_for(gate, str))
    second = jobs.add("second", lambda job: log.append("second"))
    third = jobs.add("third", lambda job: log.append("third"))
    jobs.cancel("second")
    assert jobs.find("second") is None
    assert jobs.find("third") == (1, third)
    assert second.work is None
    gate.set()
    third.answer.result(PATIENCE)
    assert log == ["third"]
    assert first.answer.done()
    with pytest.raises(CancelledError):
        second.answer.result(0)


def test_who_is_cancelled_at_work_ends_before_the_next_tile(gate: threading.Event) -> None:
    jobs, tiles, ended = JobQueue(5), [], threading.Event()

    def in_tiles(job: Job) -> None:
        try:
            for tile in range(3):
                job.on_tile(3)
                tiles.append((tile, job.tile, job.tiles))
                if tile == 0:
                    begun.set()
                    assert gate.wait(PATIENCE)
        except Cancelled:
            ended.set()
            raise

    begun = threading.Event()
    jobs.add("tiles", in_tiles)
    assert begun.wait(PATIENCE)
    jobs.cancel("tiles")
    # It is still at work, and nothing else may begin.
    after = jobs.add("after", lambda job: "done")
    assert jobs.find("after") == (1, after)
    gate.set()
    assert after.answer.result(PATIENCE) == "done"
    assert ended.is_set()
    assert tiles == [(0, 1, 3)]


def test_all_are_cancelled_at_the_end(gate: threading.Event) -> None:
    jobs = JobQueue(5)
    added = [jobs.add(f"job-{i}", waiting_for(gate, str)) for i in range(3)]
    jobs.close()
    assert all(job.answer.cancelled() for job in added)
    assert jobs.is_working  # the first one cannot be interrupted
    with pytest.raises(QueueFull):
        jobs.add("late", str)
    gate.set()
    wait_until(lambda: not jobs.is_working)


def test_what_is_answered_cannot_be_cancelled() -> None:
    jobs = JobQueue(5)
    job = jobs.add("one", lambda job: "done")
    assert job.answer.result(PATIENCE) == "done"
    jobs.cancel("one")
    assert job.answer.result(0) == "done"
