"""The environment of programs that tests start."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent


def environment(devices: int | None = None) -> dict[str, str]:
    """Of a program on CPU that may import what tests may; it sees so many devices, if told.

    It compiles as the tests do (see conftest.py).
    """
    flags = [os.environ["XLA_FLAGS"]]
    if devices is not None:
        # On a busy machine one device may wait long for another; XLA's limit is 40 seconds.
        flags += [
            f"--xla_force_host_platform_device_count={devices}",
            "--xla_cpu_collective_call_terminate_timeout_seconds=3600",
        ]
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)]),
    }
