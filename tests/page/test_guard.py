"""Who may ask, and with what headers answers leave."""

from __future__ import annotations

import socket
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from reference.page import HOME, Half, make_client, pixels, png
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from drsformer_jax.page.guard import HEADERS, Guard

TOKEN = "a-token-of-the-test"


def guarded(host: str, *, token: str | None = None, address: str = HOME) -> TestClient:
    guard = Guard(PlainTextResponse("inside"), host=host, port=7860, token=token)
    return TestClient(guard, base_url=address, follow_redirects=False)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "localhost:9999"]
)
def test_this_machine_is_known_by_its_names(host: str) -> None:
    answer = guarded("127.0.0.1").get("/", headers={"Host": host})
    assert (answer.status_code, answer.text) == (200, "inside")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example",
        "192.168.1.5:7860", "localhost:7860@evil.example", "", "[::1", "127.0.0.1:port",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/info", "/page.js"])
def test_a_name_that_was_made_to_point_here_is_refused(host: str, path: str) -> None:
    answer = guarded("127.0.0.1").get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "drsformer serve" in answer.json()["error"]


def test_at_other_addresses_names_of_the_machine_and_addresses_are_known() -> None:
    client = guarded("0.0.0.0")
    for host in ("192.168.1.5:7860", "[fe80::1]:7860", socket.gethostname(), "localhost:7860"):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "999.1.1.1", f"{socket.gethostname()}.evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 421, host


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:7860", "http://127.0.0.1:7861", "file://"],
)
def test_other_pages_may_not_post(origin: str, half: Half) -> None:
    answer = make_client(half).post(
        "/api/derain", files={"image": png(pixels())}, headers={"Origin": origin}
    )
    assert answer.status_code == 403
    assert "may not send" in answer.json()["error"]
    assert half.most == 0


@pytest.mark.parametrize("headers", [{}, {"Origin": HOME}, {"Origin": "https://127.0.0.1:7860"}])
def test_the_page_itself_and_programs_may(headers: dict[str, str], half: Half) -> None:
    answer = make_client(half).post("/api/derain", files={"image": png(pixels())}, headers=headers)
    assert answer.status_code == 200


def test_no_other_page_is_allowed_to_read(half: Half) -> None:
    answer = make_client(half).get("/api/info", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = make_client(half).options("/api/derain", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/api/info"), ("GET", "/missing"), ("PUT", "/api/info"),
     ("POST", "/api/derain")],
)  # fmt: skip
def test_every_answer_has_the_headers(method: str, path: str, half: Half) -> None:
    answer = make_client(half).request(method, path)
    assert answer.headers.items() >= HEADERS.items()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' blob:;")
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer "},
     {"Cookie": "drsformer-7860=wrong"}, {"Cookie": f"drsformer-7861={TOKEN}"}, {"Cookie": ";;=;"},
     {"Authorization": "Bearer \xe4".encode("latin-1")}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/info", "/?token=wrong", "/api/info?token=T"])
def test_nothing_without_the_token(headers: dict[str, Any], path: str) -> None:
    answer = guarded("0.0.0.0", token=TOKEN).get(path, headers=headers)
    assert answer.status_code == 401
    assert "token" in answer.json()["error"]
    assert TOKEN not in answer.text


def test_programs_bring_the_token_in_a_header() -> None:
    answer = guarded("0.0.0.0", token=TOKEN).get("/", headers={"Authorization": f"bearer {TOKEN}"})
    assert answer.text == "inside"


def test_browsers_bring_it_once_and_then_as_a_cookie() -> None:
    client = guarded("0.0.0.0", token=TOKEN)
    first = client.get(f"/?token={TOKEN}")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(first.headers["set-cookie"].split("; "))
    assert client.get("/").text == "inside"
    # The cookie does not help another page.
    foreign = client.post("/api/derain", headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
