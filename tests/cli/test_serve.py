"""`drsformer serve`: its arguments and what is said of them."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from drsformer_jax.cli import serve
from drsformer_jax.cli.main import main

pytest.importorskip("starlette", reason="the extra serve is not installed")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(args: Any) -> Any:
        raise AssertionError("the weights are read before the arguments are looked at")

    monkeypatch.setattr(serve, "load_derainer", load)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("drsformer: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tile", "12"], "--tile must be a positive multiple of 8"),
        (["--token", "short"], "--token must be 16 or more"),
        (["--token", "with spaces & signs"], "--token must be 16 or more"),
        (["--max-upload", "0"], "--max-upload must be positive"),
        (["--max-pixels", "-1"], "--max-pixels must be positive"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid --port 7860: cannot be"),
        (["--port", "70000"], "--port must be 0 to 65535, not 70000"),
        (["--evaluation", "/no/such/folder"], "--evaluation /no/such/folder: cannot be read"),
    ],
)
def test_mistakes(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint in fails(capsys, *arguments)


def test_weights_of_the_hub_are_looked_for() -> None:
    with pytest.raises(AssertionError, match="the weights are read"):
        main(["serve", "--port", "0", "--weights", "hf://org/name"])


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = fails(capsys, "--port", str(port))
    assert f"--host 127.0.0.1 --port {port}: cannot be listened at (" in told
    assert re.search("in use", told)


def test_a_folder_without_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no scores.json" in fails(capsys, "--evaluation", str(tmp_path))


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "python_multipart"])
def test_packages_that_are_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == package else find(name))
    told = fails(capsys)
    assert f"needs {package}" in told
    assert "pip install 'drsformer_jax[serve]'" in told


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is served, and announced, instead of serving."""
    seen: list[dict[str, Any]] = []

    class Nothing:
        def run(self, sockets: list[socket.socket]) -> None:
            seen[-1]["socket"] = sockets[0].getsockname()

    def make_server(guard: Any, jobs: Any, announcement: str) -> Nothing:
        seen.append({"guard": guard, "announcement": announcement})
        return Nothing()

    def make_page(derainer: Any, options: Any) -> Any:
        return type("Page", (), {"app": None, "jobs": None, "options": options})

    monkeypatch.setattr("drsformer_jax.page.running.make_server", make_server)
    monkeypatch.setattr("drsformer_jax.page.server.Page", make_page)
    monkeypatch.setattr(serve, "load_derainer", lambda args: None)
    return seen


def test_this_machine_alone_and_without_a_token(served: list[dict[str, Any]]) -> None:
    assert main(["serve", "--port", "0"]) == 0
    address, port = served[0]["socket"]
    assert address == "127.0.0.1"
    assert served[0]["announcement"] == f"http://127.0.0.1:{port}/  (Ctrl-C ends it)"
    assert served[0]["guard"]._token is None


def test_another_host_has_a_token_of_its_own(served: list[dict[str, Any]]) -> None:
    for _ in range(2):
        assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 0
    tokens = []
    for one in served:
        name = re.escape(socket.gethostname())
        found = re.match(rf"http://{name}:\d+/\?token=(\S+)", one["announcement"])
        assert found
        tokens.append(found[1])
        assert one["guard"]._token == found[1]
        assert "not encrypted" in one["announcement"]
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) >= 32


def test_a_token_that_is_given_is_asked_for_here_too(served: list[dict[str, Any]]) -> None:
    assert main(["serve", "--port", "0", "--token", "a-token-of-the-test"]) == 0
    assert served[0]["guard"]._token == "a-token-of-the-test"
    assert "/?token=a-token-of-the-test" in served[0]["announcement"]


def test_an_evaluation_is_found(tmp_path: Path) -> None:
    from drsformer_jax.page.evaluation import evaluated_sets

    (tmp_path / "scores.json").write_text(json.dumps({"images": []}))
    (one,) = evaluated_sets(tmp_path)
    assert one.document() == {"name": tmp_path.name, "pictures": [], "scores": {"images": []}}
