"""Memory that a training step on CPU keeps for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drsformer_jax.training import host_memory

# Page faults of allocating and filling 256 MB, a second time. In a process of its own: what malloc
# is told cannot be taken back.
SECOND_ALLOCATION = """
import resource, sys
import numpy as np
from drsformer_jax.training.host_memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no mallopt")
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**28, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> int:
    program = [sys.executable, "-c", SECOND_ALLOCATION, what]
    done = subprocess.run(program, capture_output=True, text=True)
    if done.stderr.startswith("no mallopt"):
        pytest.skip("another malloc than glibc's")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_is_not_faulted_in_again() -> None:
    # Where pages are huge, 256 MB are 128 of them.
    assert faults("keep") < 32 < 100 < faults("leave")


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_freed_memory()
