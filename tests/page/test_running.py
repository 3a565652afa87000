"""The server over real connections: slow clients, clients that go, the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from reference.page import PATIENCE, Half, Live, pixels, png, saved

from drsformer_jax.data.decoding import decode_bytes
from drsformer_jax.page import uploads

BOUNDARY = "a-boundary"


def form(image: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(port: int, body: bytes, *, length: int | None = None, job: str = "") -> socket.socket:
    """A connection over which a photograph was sent, or a part of it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    head = (
        f"POST /api/derain HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n"
    )
    job_line = f"X-Job: {job}\r\n" if job else ""
    connection.sendall(f"{head}{job_line}\r\n".encode() + body)
    return connection


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        return json.load(answer)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_slow_clients_do_not_keep_others_waiting(live: Live) -> None:
    body = form(png(pixels()))
    slow = [send(live.port, body[:50], length=len(body)) for _ in range(20)]
    started = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(20)]
    status, data = answer_on(send(live.port, body))
    assert status == 200
    # And are served when they are done.
    slow[0].sendall(body[50:])
    assert answer_on(slow[0]) == (200, data)
    for connection in (*slow, *started):
        connection.close()


def test_who_sends_nothing_any_more_is_given_up(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PATIENCE", 0.05)
    status, data = answer_on(send(live.port, b"--", length=100))
    assert status == 408
    assert "nothing came" in json.loads(data)["error"]


def test_a_large_upload_is_refused_before_it_is_sent(live: Live) -> None:
    connection = send(live.port, b"", length=2_000_000)
    status, data = answer_on(connection)
    assert status == 413
    assert "at most 1 MB" in json.loads(data)["error"]


def test_the_work_is_cancelled_when_the_client_goes(live: Live, half: Half) -> None:
    half.gate.clear()
    body = form(png(pixels()))
    first = send(live.port, body, job="the-first")
    assert half.begun.acquire(timeout=PATIENCE)
    second = send(live.port, body, job="the-second")
    third = send(live.port, body, job="the-third")
    wait_until(lambda: get(f"{live.address}/api/jobs/the-third")["state"] == "waiting")
    second.close()
    wait_until(lambda: get(f"{live.address}/api/jobs/the-third")["ahead"] == 1)
    first.close()
    # At work, it cannot be interrupted: the third waits for it.
    time.sleep(0.1)
    assert get(f"{live.address}/api/jobs/the-third")["ahead"] == 1
    half.gate.set()
    assert answer_on(third)[0] == 200
    assert half.begun.acquire(timeout=0)  # the third's
    assert not half.begun.acquire(timeout=0)  # and none for the second


def test_uploads_are_not_written_to_disk(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor to files without a name: there is no folder for any."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    image = png(pixels(size=(700, 100)))
    connection = send(live.port, form(image + bytes(900_000 - len(image))))
    assert answer_on(connection)[0] == 200


def test_the_end_does_not_wait_for_the_queue(live: Live, half: Half) -> None:
    half.gate.clear()
    names = ("the-first", "the-second")
    connections = [send(live.port, form(png(pixels())), job=name) for name in names]
    for name in names:
        job = f"{live.address}/api/jobs/{name}"
        wait_until(lambda job=job: get(job)["state"] != "unknown")
    live.server.should_exit = True
    for connection in connections:
        status, data = answer_on(connection)
        assert status == 503
        assert "being ended" in json.loads(data)["error"]


def test_a_fault_of_ours_is_on_the_console(
    live: Live, half: Half, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(tile: np.ndarray) -> np.ndarray:
        raise RuntimeError("a bug of the test")

    monkeypatch.setattr(half, "_restore_tile", fail)
    assert answer_on(send(live.port, form(png(pixels()))))[0] == 500
    told: list[str] = []
    wait_until(lambda: told.append(capsys.readouterr().err) or "a bug of" in "".join(told))
    assert "Traceback" in "".join(told)


# `drsformer serve` with a network that halves every value, or never ends.
PROGRAM = """
import sys, threading, time
from reference.page import Half
from drsformer_jax.cli.main import main
from drsformer_jax.inference.derainer import Derainer
half = Half()
if sys.argv[1] == "endless":
    half.restore_float = lambda *_, **__: threading.Event().wait()
Derainer.load = staticmethod(lambda weights, devices: half)
sys.exit(main(["serve", *sys.argv[2:]]))
"""


class Program:
    """`drsformer serve`, begun and ready."""

    def __init__(self, *command: str | Path) -> None:
        paths = [str(Path(__file__).parents[1]), *sys.path]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.address = self.said.split()[0].rstrip("/")
        self.port = int(self.address.rpartition(":")[2])

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> tuple[int, str]:
        """Exit code and stderr."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors


def test_the_program_says_where_and_ends_when_it_is_interrupted() -> None:
    with Program("-c", PROGRAM, "half", "--port", "0") as program:
        assert program.said == f"http://127.0.0.1:{program.port}/  (Ctrl-C ends it)\n"
        status, data = answer_on(send(program.port, form(png(pixels()))))
        assert status == 200
        halves = np.rint(pixels() * np.float32(0.5))
        np.testing.assert_array_equal(decode_bytes(data, "").samples, halves)
        assert program.interrupt() == (130, "")


def test_it_ends_at_work_too() -> None:
    with Program("-c", PROGRAM, "endless", "--port", "0") as program:
        connection = send(program.port, form(png(pixels())), job="long-work")
        job = f"{program.address}/api/jobs/long-work"
        wait_until(lambda: get(job)["state"] == "working")
        assert program.interrupt() == (130, "")
        assert answer_on(connection)[0] == 503


@pytest.mark.slow
def test_a_real_network_gives_the_file_of_the_command_line(tmp_path: Path) -> None:
    image = png(pixels(dtype=np.uint16, size=(16, 24)))
    source, out = saved(tmp_path / "photo.png", image), tmp_path / "out.png"
    drsformer = ("-m", "drsformer_jax.cli.main")
    with Program(*drsformer, "serve", "--port", "0") as program:
        connection = send(program.port, form(image))
        connection.settimeout(600)
        status, data = answer_on(connection)
        assert status == 200
        subprocess.run(
            [sys.executable, *drsformer, "derain", source, "-o", out], check=True, timeout=600
        )
        assert data == out.read_bytes()
        # Compiling cannot be interrupted, and is not waited for.
        larger = send(program.port, form(png(pixels(size=(104, 200)))), job="compiling")
        wait_until(lambda: get(f"{program.address}/api/jobs/compiling").get("tile") == 1)
        assert program.interrupt() == (130, "")
        larger.close()
