"""Memory that a training step on CPU keeps for the next one."""

from __future__ import annotations

import subprocess
import sys
import types

import jax
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

# Of a later run of a computation with 84 MB of scratch, prepared as train.py prepares its steps; a
# thread's own heap has 64. The fewest of three: where memory is short, the system takes pages away
# at any time.
LATER_RUN = """
import resource, sys, threading
import jax
import jax.numpy as jnp
from drsformer_jax.training.cpu import keep_cpu_memory, share_one_heap
jax.config.update("jax_platforms", "cpu")
if sys.argv[1] == "keep":
    share_one_heap()
    keep_cpu_memory()
x = jnp.ones((80 * 2**10, 2**8))
step = jax.jit(lambda x: jnp.sort(x)[:, ::2].sum())
found = []
def later_runs():
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        jax.block_until_ready(step(x))
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "main":
    later_runs()
else:
    thread = threading.Thread(target=later_runs)
    thread.start()
    thread.join()
print(min(found[2:]))
"""


def faults(program: str, *what: str) -> int:
    command = [sys.executable, "-c", program, *what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stderr.startswith("no mallopt"):
        pytest.skip("another malloc than glibc's")
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_memory_is_not_faulted_in_again() -> None:
    # Where pages are huge, 256 MB are 128 of them.
    assert faults(SECOND_ALLOCATION, "keep") < 32 < 100 < faults(SECOND_ALLOCATION, "leave")


@pytest.mark.parametrize("where", ["main", "thread"])
def test_nor_is_that_of_a_step(where: str) -> None:
    """JAX runs a step in the main thread, or in one of its own where an input is still awaited."""
    kept, left = (faults(LATER_RUN, what, where) for what in ("keep", "leave"))
    assert kept < 1000 < 10_000 < left


def test_hosts_of_accelerators_keep_a_heap_for_each_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(cpu, "_tell_malloc", lambda *settings: bool(told.extend(settings)) or True)
    for platforms, plugins, expected in (
        ("cpu", [], 1),
        ("cuda,cpu", [], 0),
        (None, [], 1),
        (None, ["cuda"], 0),
        ("cpu", ["cuda"], 1),
    ):
        told.clear()
        config = types.SimpleNamespace(jax_platforms=platforms, update=lambda name, value: None)
        monkeypatch.setattr(jax, "config", config)
        monkeypatch.setattr(
            cpu.importlib.metadata, "entry_points", lambda group, plugins=plugins: plugins
        )
        monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda name: None)
        cpu.share_one_heap()
        assert len(told) == expected, (platforms, plugins)


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: object())
    assert not cpu.keep_freed_memory()
