"""Several processes of one run, with a coordinator on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from reference.programs import environment

PATIENCE = 900  # seconds, for a machine that is busy with something else


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_together(
    program: Path, given: dict[str, Any], processes: int, devices: int, **variables: str
) -> list[tuple[int, str, str]]:
    """Starts one program a process, and for each gives its exit code, output and errors.

    Its argument is a JSON document: what is given, with `process`, `processes` and `port`.
    """
    given = given | {"processes": processes, "port": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, str(program), json.dumps(given | {"process": i})],
            env=environment(devices) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    results = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=PATIENCE)
            results.append((process.returncode, output, errors))
    finally:
        for process in started:
            process.kill()
    return results
