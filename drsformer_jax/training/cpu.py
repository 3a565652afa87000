"""How training runs on CPU: XLA's flag, and the memory of a step kept for the next one."""

from __future__ import annotations

import ctypes
import os

# XLA's CPU compiler orders a program for concurrency and keeps every intermediate result alive:
# five times the memory and twice the time in a training step.
SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
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


def steps_in_main_thread() -> None:
    """Has JAX compute there: it is the only thread whose memory can be kept.

    To be called before JAX starts its devices.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_cpu_memory() -> None:
    """On a single CPU device, keeps the memory of a step for the next one, and says so."""
    import jax

    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return
    if keep_freed_memory():
        print("a step's memory is kept for the next one (less time on CPU)", flush=True)


def keep_freed_memory() -> bool:
    """Makes malloc keep what the main thread frees, instead of returning it to the system.

    A step of the full network allocates 650 MB of scratch. By default malloc maps as much anew for
    every step, and the system clears each of its 160,000 pages when it is first touched. It holds
    for large blocks of the main thread alone, for other threads' heaps are small and map them: a
    step must run there (`steps_in_main_thread`).

    Returns:
      Whether this process's malloc can be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])
