"""One suite for all who do the units of a job; workers are killed in the middle."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from reference.job_worker import AFTER_WRITING, ALWAYS, BAD, ONCE, Texts
from reference.programs import environment

from drsformer_jax.errors import UserError
from drsformer_jax.jobs.engines import Engine, Inline, Processes, own_device
from drsformer_jax.jobs.ledger import DONE, FAILED
from drsformer_jax.jobs.status import status

ENGINES = [
    "inline",
    "processes",
    pytest.param("ray", marks=pytest.mark.skipif(not find_spec("ray"), reason="no Ray")),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all tests, whose actors find what tests may import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def engine(name: str, request: pytest.FixtureRequest) -> Engine:
    if name == "ray":
        request.getfixturevalue("cluster")
        from drsformer_jax.jobs.ray_engine import Ray

        return Ray(2, None, {})
    return Inline("part-1-of-1") if name == "inline" else Processes(2)


def rows_of(texts: Texts) -> collections.Counter[tuple[str, str]]:
    lines = [
        line for path in texts.folder.ledgers.iterdir() for line in path.read_text().splitlines()
    ]
    rows = [json.loads(line) for line in lines if line]
    return collections.Counter((row["id"], row["status"]) for row in rows)


@pytest.mark.parametrize("name", ENGINES)
def test_all_is_done_once_and_stopped_in_between(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    texts = Texts(tmp_path, 30, {"005.txt": BAD})
    texts.begin()
    told: list[str] = []
    for row in texts.run(engine(name, request), lambda: 15 if told else 0, most=2):
        told.append(row["id"])
    assert 0 < len(told) < 30
    assert not status(texts.out)[1]
    told += [row["id"] for row in texts.run(engine(name, request))]
    assert texts.written() == {
        name: text for name, text in texts.expected().items() if name != "005.txt"
    }
    # What has failed is tried again by the next run, and nothing else.
    assert {unit for unit, count in texts.calls().items() if count > 1} <= {"005.txt"}
    done = {name for name, state in rows_of(texts) if state == DONE}
    assert len(done) == 29
    assert "005.txt: is bad" in status(texts.out)[0]


@pytest.mark.parametrize("name", ENGINES[1:])
def test_workers_are_killed(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    plan = {"007.txt": ONCE, "023.txt": AFTER_WRITING, "041.txt": ALWAYS}
    texts = Texts(tmp_path, 60, plan)
    texts.begin()
    rows = list(texts.run(engine(name, request)))
    expected = texts.expected()
    del expected["041.txt"]
    assert texts.written() == expected  # and nothing that was half written
    done = {unit: count for (unit, state), count in rows_of(texts).items() if state == DONE}
    assert done == dict.fromkeys(expected, 1)
    assert [row["id"] for row in rows if row["status"] == FAILED] == ["041.txt"]
    # Not one that was finished is done again, but what was killed before its row.
    again = {unit: count for unit, count in texts.calls().items() if count > 1}
    assert again == {"007.txt": 2, "023.txt": 2, "041.txt": 3}
    told, is_done = status(texts.out)
    assert not is_done
    assert "041.txt: 3 workers died of it: it is not tried again" in told
    # Nor by another run, which tells of it.
    assert [row["id"] for row in texts.run(Inline("again"))] == ["041.txt"]
    assert texts.calls()["041.txt"] == 3


@pytest.mark.parametrize(
    ("chips", "given", "expected"),
    [
        (0, {"CUDA_VISIBLE_DEVICES": "4,7"}, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "474"]),
        (0, {"CUDA_VISIBLE_DEVICES": ""}, [{}, {}, {}]),
        (2, {}, ["0", "1", "0"]),
    ],
)
def test_a_worker_has_a_device_of_its_own(
    chips: int, given: dict[str, str], expected: list[object]
) -> None:
    own = [own_device(number, chips, given) for number in (1, 2, 3)]
    assert [found.get("TPU_VISIBLE_CHIPS", found) for found in own] == expected
    assert len({found.get("TPU_PROCESS_PORT") for found in own}) == max(1, chips)


def test_workers_that_die_at_once_do_not_go_on_for_ever(tmp_path: Path) -> None:
    texts = Texts(tmp_path, 2)
    texts.begin()
    (texts.folder.path / "job.json").write_text("torn")
    with pytest.raises(UserError, match="is damaged"):
        list(texts.run(Processes(1)))
