"""How training runs on CPU: XLA's flag, and the memory of a step kept for the next one."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os

# XLA's CPU compiler orders a program for concurrency and keeps every intermediate result alive:
# five times the memory and twice the time in a training step.
SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1
_GROWTH_BYTES = 64 * 2**20


def prepare_cpu() -> None:
    """Sets XLA's flag where the user has not, and says so.

    To be called before JAX starts its devices.
    """
    if SCHEDULER_FLAG not in os.environ.get("XLA_FLAGS", ""):
        setting = f"{SCHEDULER_FLAG}=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {setting}".strip()
        print(f"added to XLA_FLAGS: {setting} (less memory and time on CPU)", flush=True)


def share_one_heap() -> None:
    """Where the CPU computes alone, has all threads allocate from one heap, and steps one by one.

    Other threads' heaps are small, and map large blocks anew from the system each time. Where steps
    overlap, the next one's scratch is allocated before the last one's is free.

    To be called before JAX starts its devices, for threads keep the heap they have begun with.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if _cpu_alone():
        _tell_malloc((_ARENA_MAX, 1))


def keep_cpu_memory() -> None:
    """On CPU, keeps the memory of a step for the next one, and says so."""
    import jax

    if jax.default_backend() == "cpu" and keep_freed_memory():
        print("a step's memory is kept for the next one (less time on CPU)", flush=True)


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed on the shared heap, instead of returning it to the system.

    A step of the full network allocates 650 MB of scratch. By default malloc maps as much anew for
    every step, and the system clears each of its 160,000 pages when it is first touched.

    Returns:
      Whether this process's malloc can be told so.
    """
    return _tell_malloc((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH_BYTES))


def _cpu_alone() -> bool:
    """Whether JAX can have no other devices; it need not have started them."""
    import jax

    if platforms := getattr(jax.config, "jax_platforms", None):
        return bool(platforms == "cpu")
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def _tell_malloc(*settings: tuple[int, int]) -> bool:
    """Whether this process's malloc takes all of them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return all([mallopt(name, value) == 1 for name, value in settings])
