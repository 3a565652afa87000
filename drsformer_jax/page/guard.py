"""Who may ask: everything that is refused before a request reaches the program.

Any page that a browser shows can send requests to this machine. Names that were made to point
here (DNS rebinding) are told by the Host header, other pages by the Origin header; and who is not
on this machine needs the token.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d+)?")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_READING = ("GET", "HEAD")

HEADERS = {
    # Nothing from anywhere else, so that the page works offline; blob: for the pictures that it
    # has in memory.
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # What is shown belongs to its owner, and a newer version has newer files.
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, *, host: str, port: int, token: str | None) -> None:
        """Guards `app`.

        Args:
          host: that the server listens at, a name or an address.
          port: its port.
          token: that every request must bring, as a cookie, as `Authorization: Bearer TOKEN`, or
            once as `/?token=TOKEN`, which sets the cookie. None: none is needed.
        """
        self._app = app
        self._token = token
        # Browsers give a cookie to all ports of a machine.
        self._cookie = f"drsformer-{port}"
        self._names = _LOOPBACK_NAMES | {host.lower()}
        self._takes_addresses = host not in _LOOPBACK_NAMES
        if self._takes_addresses:
            own = {socket.gethostname().lower(), socket.getfqdn().lower()}
            self._names |= own | {f"{name}.local" for name in own}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _error(
                421,
                f"this page is not known as {host[:80]!r}: open the address that `drsformer serve` "
                "printed",
            )
        # Of a page from elsewhere; programs that are no browsers send none.
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] not in _READING
            and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower())
        ):
            return _error(403, f"pages of {origin[:80]!r} may not send anything here")
        return None if self._token is None else self._without_token(scope, headers, self._token)

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower()
        if name in self._names:
            return True
        if not self._takes_addresses:
            return False
        # An address is nobody's to point elsewhere.
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        if scope["path"] == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if _same(given, token):
                # The token leaves the address bar, and so the history.
                answer = RedirectResponse("/", 303)
                answer.set_cookie(self._cookie, token, httponly=True, samesite="strict")
                return answer
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(bearer.strip(), token):
            return None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            cookie = None
        if cookie is not None and _same(cookie.value, token):
            return None
        return _error(
            401, "a token is needed: open the address with ?token= that `drsformer serve` printed"
        )


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
