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

# Of a later run of a computation with 42 MB of scratch, prepared as train.py prepares its steps.
# The fewest of three: where memory is short, the system takes pages away at any time.
LATER_RUN = """
import resource, sys
import jax
import jax.numpy as jnp
from drsformer_jax.training.cpu import keep_cpu_memory, share_one_heap
jax.config.update("jax_platforms", "cpu")
if sys.argv[1] == "keep":
    share_one_heap()
    keep_cpu_memory()
x = jnp.ones((40 * 2**10, 2**8))
# XLA calls a library for the transform, and so cannot make one loop of it and the sum.
step = jax.jit(lambda x: jnp.abs(jnp.fft.rfft(x)).sum())
found = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found[2:]))
"""


# How many heaps the threads of a process add to those it has, as malloc itself tells.
HEAPS = """
import ctypes, os, sys, tempfile, threading
import jax
from drsformer_jax.training.cpu import share_one_heap
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
def heaps():
    with tempfile.NamedTemporaryFile("r") as told:
        file = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        return told.read().count("<heap nr=")
jax.config.update("jax_platforms", "cpu")
if sys.argv[1] == "keep":
    share_one_heap()
before = heaps()
jax.devices()
together = threading.Barrier(4)
def allocate():
    block = bytearray(10_000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(heaps() - before)
"""


def number(program: str, what: str) -> int:
    """What a program prints last."""
    command = [sys.executable, "-c", program, what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stderr.startswith("no mallopt"):
        pytest.skip("another malloc than glibc's")
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_memory_is_not_faulted_in_again() -> None:
    # Where pages are huge, 256 MB are 128 of them.
    assert number(SECOND_ALLOCATION, "keep") < 32 < 100 < number(SECOND_ALLOCATION, "leave")


def test_nor_is_that_of_a_step() -> None:
    kept, left = (number(LATER_RUN, what) for what in ("keep", "leave"))
    assert kept < 1000 < 10_000 < left


def test_all_threads_have_one_heap() -> None:
    """JAX runs a step in a thread of its own where an input is still awaited."""
    assert number(HEAPS, "keep") == 0 < number(HEAPS, "leave")


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
