"""Memory that a training step on CPU keeps for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drsformer_jax.training import cpu

# Page faults of allocating and filling 256 MB, a second time. In a process of its own: what malloc
# is told cannot be taken back.
SECOND_ALLOCATION = """
import resource, sys
import numpy as np
from drsformer_jax.training.cpu import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no mallopt")
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**28, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# Of a later run of a computation with 42 MB of scratch, prepared as train.py prepares its steps.
# The fewest of three: where memory is short, the system takes pages away at any time.
LATER_RUN = """
import resource, sys
import jax
import jax.numpy as jnp
from drsformer_jax.training.cpu import keep_cpu_memory, steps_in_main_thread
jax.config.update("jax_platforms", "cpu")
if sys.argv[1] == "keep":
    steps_in_main_thread()
    keep_cpu_memory()
x = jnp.ones((40 * 2**10, 2**8))
step = jax.jit(lambda x: jnp.sort(x)[:, ::2].sum())
found = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found[2:]))
"""


def faults(program: str, what: str) -> int:
    command = [sys.executable, "-c", program, what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stderr.startswith("no mallopt"):
        pytest.skip("another malloc than glibc's")
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_memory_is_not_faulted_in_again() -> None:
    # Where pages are huge, 256 MB are 128 of them.
    assert faults(SECOND_ALLOCATION, "keep") < 32 < 100 < faults(SECOND_ALLOCATION, "leave")


def test_nor_is_that_of_a_step() -> None:
    kept, left = (faults(LATER_RUN, what) for what in ("keep", "leave"))
    assert kept < 1000 < 10_000 < left


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: object())
    assert not cpu.keep_freed_memory()
