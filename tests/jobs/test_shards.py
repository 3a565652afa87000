"""Which share of a job a process does."""

from __future__ import annotations

import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.jobs.shards import Shard, parse_shard

SLURM = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "2",
}
KUBERNETES = {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "8"}
POD = {"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_unit_is_that_of_one_part(count: int) -> None:
    names = [f"folder/{number}.png" for number in range(200)] + ["\udcff.png"]
    parts = [Shard(number, count) for number in range(1, count + 1)]
    owners = [[part.number for part in parts if part.has(name)] for name in names]
    assert all(len(own) == 1 for own in owners)
    assert {number for (number,) in owners} == set(range(1, count + 1))


def test_a_part_does_not_depend_on_the_other_units() -> None:
    """Nor on the process, whose hash of a text is its own."""
    assert [Shard(1, 3).has(name) for name in "abcdef"] == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SLURM, Shard(3, 4)),
        (KUBERNETES, Shard(1, 8)),
        (POD, Shard(4, 4)),
        # An array that is sent again for one part that was lost does all that is missing.
        (SLURM | {"SLURM_ARRAY_TASK_MIN": "7", "SLURM_ARRAY_TASK_COUNT": "1"}, Shard(1, 1)),
        # Kubernetes on TPUs tells both: the first is what the user has asked for.
        (KUBERNETES | POD, Shard(1, 8)),
    ],
)
def test_what_schedulers_tell(environment: dict[str, str], expected: Shard) -> None:
    assert parse_shard("auto", environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "why"),
    [
        ("0/2", {}, "--shard 0/2: must be I/N with I from 1 to N, or auto"),
        ("3/2", {}, "--shard 3/2: must be"),
        ("-1/2", {}, "must be"),
        ("half", {}, "must be"),
        (f"1/{'9' * 5000}", {}, "must be I/N"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "9" * 5000}, "SLURM_ARRAY_TASK_ID is no number"),
        ("auto", {}, r"neither Slurm .* nor Kubernetes .* nor a TPU pod"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETIONS is not set: give --shard I/N"),
        ("auto", KUBERNETES | {"JOB_COMPLETION_INDEX": "8"}, "JOB_COMPLETION_INDEX 8 is none of 8"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "4"}, "SLURM_ARRAY_TASK_ID 4 is none of 4"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_MIN": "x"}, "SLURM_ARRAY_TASK_MIN is no number: x"),
        ("auto", {"TPU_WORKER_ID": "0"}, "TPU_WORKER_ID 0 is none of 0"),
    ],
)
def test_mistakes(text: str, environment: dict[str, str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse_shard(text, environment)
