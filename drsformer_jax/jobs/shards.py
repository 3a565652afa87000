"""Which share of a job one process does."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from drsformer_jax.errors import UserError, is_number

AUTO = "auto"
# Kubernetes tells a pod its number, and not how many there are.
COMPLETIONS = "JOB_COMPLETIONS"


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    @property
    def writer(self) -> str:
        """The name of its ledger."""
        return f"part-{self.number}-of-{self.count}"

    def has(self, name: str) -> bool:
        """Whether a unit is its own: by the hash of its name, whatever else there is to do."""
        if self.count == 1:
            return True
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1


WHOLE = Shard(1, 1)


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """The share that `--shard` names: "I/N", or "auto": what the scheduler told this process.

    Raises:
      UserError: it is neither, or there is no scheduler that has told.
    """
    if text == AUTO:
        return _told_by_scheduler(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    is_one = found is not None and all(map(is_number, found.groups()))
    if not found or not is_one or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard {text}: must be I/N with I from 1 to N, or auto")
    return Shard(int(found[1]), int(found[2]))


def _told_by_scheduler(environment: Mapping[str, str]) -> Shard:
    def number(name: str, instead: str = "") -> int:
        value = environment.get(name, instead)
        if not is_number(value):
            why = f"is no number: {value}" if value else "is not set"
            raise UserError(f"--shard auto: {name} {why}: give --shard I/N")
        return int(value)

    if "SLURM_ARRAY_TASK_ID" in environment:
        index = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")
        index, rest = divmod(index, number("SLURM_ARRAY_TASK_STEP", "1") or 1)
        count, source = number("SLURM_ARRAY_TASK_COUNT"), "SLURM_ARRAY_TASK_ID"
        if rest:
            index = count
    elif "JOB_COMPLETION_INDEX" in environment:
        index, count = number("JOB_COMPLETION_INDEX"), number(COMPLETIONS)
        source = "JOB_COMPLETION_INDEX"
    elif "TPU_WORKER_ID" in environment:
        index = number("TPU_WORKER_ID")
        count = len(
            [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
        )
        source = "TPU_WORKER_ID"
    else:
        raise UserError(
            "--shard auto: neither Slurm (SLURM_ARRAY_TASK_ID) nor Kubernetes "
            "(JOB_COMPLETION_INDEX) nor a TPU pod (TPU_WORKER_ID) has told this process its part: "
            "give --shard I/N"
        )
    if not index < count:
        raise UserError(
            f"--shard auto: {source} {environment[source]} is none of {count} parts in a row: give "
            "--shard I/N"
        )
    return Shard(index + 1, count)
