"""Programs that compute next to nothing, for tests of how programs are measured."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from benchmarks.pairs import Program
from drsformer_jax.errors import UserError

MEGABYTE = 2**20


def sleeper(seconds: float, result: float = 1.0) -> Program:
    """Sleeps, and has computed `result`."""
    return Program(
        lambda: time.sleep(seconds),
        lambda: {"result": np.array([result])},
        {"compile_seconds": 0.5, "pid": os.getpid()},
    )


def logger(path: str, name: str) -> Program:
    """Adds its name to a file at each run."""

    def run() -> None:
        with open(path, "a") as file:
            file.write(name)

    return Program(run)


def own_clock() -> Program:
    """Tells its seconds itself."""
    return Program(lambda: 12.0)


def hoarder(built_megabytes: int, run_megabytes: int) -> Program:
    """Touches memory while it is built, and some while it runs; both are given back."""

    def touch(megabytes: int) -> None:
        np.ones(megabytes * MEGABYTE, np.uint8)

    touch(built_megabytes)
    return Program(lambda: touch(run_megabytes))


def mistaken() -> Program:
    raise UserError("no such network")


def broken() -> Program:
    raise ZeroDivisionError("while building")


def breaks_later() -> Program:
    def run() -> None:
        raise ZeroDivisionError("while running")

    return Program(run)


def dies() -> Program:
    return Program(lambda: os._exit(7))


def restored(result: float = 1.0, seconds: float = 0.5, **settings: Any) -> Program:
    """As a network's program tells of itself."""
    return Program(
        lambda: seconds, lambda: {"restored": np.array([result])}, {"compile_seconds": 1.0}
    )


def pytorchs(result: float, variant: str, **settings: Any) -> Program:
    return restored(1.0, 1.0)


def product(dtype: str, precision: str, device: str) -> Program:
    """A matrix product of 10 GFLOP in 2 seconds."""
    return Program(lambda: 2.0, facts={"size": 1000, "flops": 10**10})
