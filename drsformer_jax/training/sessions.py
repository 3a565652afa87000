"""When a run was at work and on what: WORKDIR/sessions.jsonl, a line for each start and each end.

Nothing but the report reads it: what cannot be written is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

FILE = "sessions.jsonl"

_LAST_MOMENT = 253_402_300_800.0  # the year 10,000, which dates do not reach

_PACKAGES = ("drsformer_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Session:
    """From one start of train.py to its end.

    Attributes:
      begin: seconds since 1970.
      end: likewise, or None: it was killed, or is at work.
      first_step, last_step: steps done then; None with `end`.
      before: when something was last written before it began, or None.
      environment: versions, devices, processes; text by name.
    """

    begin: float
    end: float | None
    first_step: int
    last_step: int | None
    before: float | None
    environment: Mapping[str, str]


def note_start(workdir: Path, step: int, written: Path) -> None:
    """Notes a start after `step` steps; `written` is the file that grows while a run is at work."""
    with contextlib.suppress(OSError):
        before = written.stat().st_mtime if written.exists() else None
        _append(workdir, {"start": step, "before": before, "environment": _environment()})


def note_end(workdir: Path, step: int) -> None:
    """Notes an end after `step` steps."""
    with contextlib.suppress(OSError):
        _append(workdir, {"end": step})


def _append(workdir: Path, record: Mapping[str, Any]) -> None:
    with (workdir / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **record}) + "\n")


def _environment() -> dict[str, str]:
    kinds = sorted({device.device_kind for device in jax.devices()})
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "devices": f"{jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()})",
        "processes": str(jax.process_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **versions,
    }


def _moment(value: Any) -> float:
    """Seconds since 1970; ValueError or TypeError if it is none."""
    moment = float(value)
    if not 0 <= moment < _LAST_MOMENT:
        raise ValueError(f"{moment} is no moment")
    return moment


def read_sessions(records: list[dict[str, Any]]) -> list[Session]:
    """The sessions of a run, from the lines of its file."""
    found: list[Session] = []
    for record in records:
        # Of a damaged line.
        with contextlib.suppress(ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            moment = _moment(record["time"])
            if "start" in record:
                environment = {str(k): str(v) for k, v in record["environment"].items()}
                before = None if record["before"] is None else _moment(record["before"])
                step = int(record["start"])
                found.append(Session(moment, None, step, None, before, environment))
            elif found:
                last = found.pop()
                found.append(dataclasses.replace(last, end=moment, last_step=int(record["end"])))
    return found


def seconds_at_work(sessions: list[Session], last_written: float) -> float:
    """Of all sessions; those of killed ones end where something was last written."""
    total = 0.0
    following = [*(session.before for session in sessions[1:]), last_written]
    for session, written in zip(sessions, following, strict=True):
        end = written if session.end is None else session.end
        total += max(0.0, (session.begin if end is None else end) - session.begin)
    return total
