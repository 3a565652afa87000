"""Keeps the memory of a training step on CPU for the next one (glibc's malloc)."""

from __future__ import annotations

import ctypes

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_GROWTH_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Makes malloc keep what the main thread frees, instead of returning it to the system.

    A step of the full network allocates 650 MB of scratch. By default malloc maps as much anew for
    every step, and the system clears each of its 160,000 pages when it is first touched. It holds
    for large blocks of the main thread alone, for other threads' heaps are small and map them: a
    step must run there (jax_cpu_enable_async_dispatch off).

    Returns:
      Whether this process's malloc can be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])
