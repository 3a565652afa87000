"""A page, and a server of it in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reference.browser import Browser
    from reference.page import Half, Live
    from selenium import webdriver
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


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the browser keeps downloads in."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def driver(downloads: Path) -> Iterator[webdriver.Chrome]:
    from reference.browser import start_chromium

    started = start_chromium(downloads)
    yield started
    started.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[Browser]:
    from reference.browser import Browser

    window = Browser(driver)
    window.size(1280, 860)
    yield window
    assert window.faults() == []
    while len(driver.window_handles) > 1:
        driver.close()
        driver.switch_to.window(driver.window_handles[0])
    driver.get("about:blank")
