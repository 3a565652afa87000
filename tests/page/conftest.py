"""A page, and a server of it in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reference.page import Half, Live
    from starlette.testclient import TestClient


@pytest.fixture
def half() -> Iterator[Half]:
    from reference.page import Half

    derainer = Half()
    yield derainer
    derainer.gate.set()


@pytest.fixture
def client(half: Half) -> TestClient:
    from reference.page import make_client

    return make_client(half)


@pytest.fixture
def live(half: Half, capsys: pytest.CaptureFixture[str]) -> Iterator[Live]:
    from reference.page import OPTIONS, PATIENCE, Live

    from drsformer_jax.page import running
    from drsformer_jax.page.guard import Guard
    from drsformer_jax.page.server import Options, Page

    page = Page(half, Options(**OPTIONS))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    guard = Guard(page.app, host="127.0.0.1", port=port, token=None)
    server = running.make_server(guard, page.jobs, "ready")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield Live(server, port)
    half.gate.set()
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()
