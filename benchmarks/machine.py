"""What a measurement ran on: machine, versions, settings. Read where /proc is, on Linux."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "safetensors",
    "numpy",
    "torch",
    "libtpu",
)
# Of a CPU's dozens of flags, those that matrix products and convolutions make use of.
VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "sve", "bf16")
# Of the environment, what changes how fast a program runs.
SETTINGS = ("XLA_FLAGS", "JAX_PLATFORMS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY")


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _first_value(file: str, key: str) -> str | None:
    """The first "key : value" of a file in /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _commit() -> str | None:
    """The revision that is measured, with a + where files differ from it."""
    command = ("git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*")
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe() -> dict[str, Any]:
    """{"machine", "versions", "settings", "commit"} of this process, as JSON knows values."""
    flags = (_first_value("/proc/cpuinfo", "flags") or "").split()
    memory = (_first_value("/proc/meminfo", "MemTotal") or "0 kB").split()
    installed = {d.name.lower(): d.version for d in distributions() if d.name.lower() in PACKAGES}
    return {
        "machine": {
            "platform": platform.platform(),
            "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
            "vector_flags": [flag for flag in VECTOR_FLAGS if flag in flags],
            "cores": cores(),
            "memory_bytes": 1024 * int(memory[0]),
            "load": list(os.getloadavg()),
        },
        "versions": {"python": platform.python_version(), **dict(sorted(installed.items()))},
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "commit": _commit(),
    }


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since the process began, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Begins `peak_bytes` anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    value = _first_value("/proc/self/status", key)
    return 1024 * int(value.split()[0]) if value else 0
