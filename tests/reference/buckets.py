"""Buckets of Google Cloud Storage in memory, behind what its JSON API has of what is used here.

gcsfs finds it by STORAGE_EMULATOR_HOST, TensorStore by TENSORSTORE_GCS_HTTP_URL.
"""

from __future__ import annotations

import base64
import contextlib
import email
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OBJECT = re.compile(r"/b/([^/]+)/o(?:/([^/]+))?$")
COPY = re.compile(r"/b/([^/]+)/o/([^/]+)/(?:copyTo|rewriteTo)/b/([^/]+)/o/([^/]+)$")


class Buckets:
    """What is in them, and what is done with the requests.

    Attributes:
      objects: (generation, content) by (bucket, name).
      names: of the buckets.
      watch: called with method and address of each request before it is done, the name of an object
        that is to be written at the end; a number that it returns is the status that it ends with.
      requests: method and address of each so far.
    """

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.watch: Callable[[str, str], int | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.uploads: dict[str, dict[str, Any]] = {}
        self.generation = 1
        self.url = ""

    def clear(self) -> None:
        """Empties them, and lets all requests pass."""
        self.objects.clear()
        self.requests.clear()
        self.watch = lambda method, path: None

    def names_in(self, bucket: str, prefix: str = "") -> list[str]:
        return sorted(
            name for b, name in list(self.objects) if b == bucket and name[: len(prefix)] == prefix
        )

    def content(self, bucket: str, name: str) -> bytes:
        return self.objects[bucket, name][1]

    def put(self, bucket: str, name: str, content: bytes) -> None:
        with self.lock:
            self.generation += 1
            self.objects[bucket, name] = (self.generation, content)

    @property
    def environment(self) -> dict[str, str]:
        """Of programs that are to find these buckets."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            # Google's own client, of Orbax, would ask the network who it is.
            "GOOGLE_CLOUD_PROJECT": "project",
            "NO_GCE_CHECK": "true",
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets: Buckets

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(*self.done(method, self.path, body, dict(self.headers.items())))

    def send(self, status: int, content: bytes | dict, headers: dict[str, str]) -> None:
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def done(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes | dict, dict[str, str]]:
        """Status, content and headers of the answer to a request."""
        address = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(address.query))
        path = address.path
        if query.get("uploadType") in ("multipart", "resumable"):
            found = re.search(rb'"name": ?"([^"]+)"', body)
            target += f"&name={found[1].decode() if found else ''}"
        told = urllib.parse.unquote(target)
        self.buckets.requests.append((method, told))
        if (refusal := self.buckets.watch(method, told)) is not None:
            told = {"code": refusal, "message": "refused"}
            return refusal, {"error": told}, {}
        with self.buckets.lock:
            if path.startswith("/batch"):
                return self.batch(body, headers)
            if found := COPY.search(path):
                source, target_name = (
                    tuple(map(urllib.parse.unquote, pair))
                    for pair in (found.groups()[:2], found.groups()[2:])
                )
                if source not in self.buckets.objects:
                    return 404, {}, {}
                self.buckets.put(*target_name, self.buckets.content(*source))
                return 200, {"done": True, "resource": self.resource(target_name)}, {}
            if found := OBJECT.search(path):
                bucket, name = found[1], urllib.parse.unquote(found[2] or query.get("name", ""))
                if bucket not in self.buckets.names:
                    return 404, {"error": {"code": 404, "message": "no such bucket"}}, {}
                if method == "POST" or "upload_id" in query:
                    return self.upload(bucket, name, query, body, headers)
                if method == "DELETE":
                    gone = self.buckets.objects.pop((bucket, name), None)
                    return 404 if gone is None else 204, b"", {}
                return (
                    self.get((bucket, name), query, headers) if name else self.listed(bucket, query)
                )
            bucket = path.rpartition("/b/")[2]
            return (200, {"name": bucket}, {}) if bucket in self.buckets.names else (404, {}, {})

    def batch(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes | dict, dict]:
        kind = next(value for name, value in headers.items() if name.lower() == "content-type")
        parts = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        answers = []
        for part in parts.get_payload():
            method, target = part.get_payload().split()[:2]
            status, _, _ = self.done(method, target, b"", {})
            answers.append(
                f"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} OK\r\n\r\n"
            )
        return (
            200,
            ("".join(answers) + "--b--").encode(),
            {"Content-Type": "multipart/mixed; boundary=b"},
        )

    def get(
        self, key: tuple[str, str], query: dict[str, str], headers: dict[str, str]
    ) -> tuple[int, bytes | dict, dict[str, str]]:
        if key not in self.buckets.objects:
            return 404, {"error": {"code": 404, "message": "no such object"}}, {}
        generation, content = self.buckets.objects[key]
        if query.get("ifGenerationNotMatch") == str(generation):
            return 304, b"", {}
        if query.get("alt") != "media":
            return 200, self.resource(key), {}
        told = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        asked = next((v for n, v in headers.items() if n.lower() == "range"), None)
        if asked is None:
            return 200, content, told
        first, last = asked.removeprefix("bytes=").split("-")
        if not first:
            first, last = str(max(0, len(content) - int(last))), ""
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        if start >= len(content):
            return 416, b"", {}
        told["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return 206, content[start : end + 1], told

    def listed(self, bucket: str, query: dict[str, str]) -> tuple[int, dict, dict[str, str]]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        first, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        for name in self.buckets.names_in(bucket, prefix):
            if name < first or (end and name >= end):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.resource((bucket, name)))
        return 200, {"items": items, "prefixes": sorted(prefixes)}, {}

    def upload(
        self, bucket: str, name: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict | bytes, dict[str, str]]:
        wanted = query.get("ifGenerationMatch")
        if query.get("uploadType") == "multipart":
            _, told, content, _ = re.split(rb"\r?\n?--==0==(?:--)?", body)[:4]
            name = json.loads(told.partition(b"\n\n")[2])["name"]
            body = content.partition(b"\n\n")[2]
        elif query.get("uploadType") == "resumable":
            number = str(len(self.buckets.uploads))
            self.buckets.uploads[number] = {"name": name, "content": b"", "wanted": wanted}
            where = f"{self.buckets.url}/upload/storage/v1/b/{bucket}/o?upload_id={number}"
            return 200, b"", {"Location": where}
        elif "upload_id" in query:
            begun = self.buckets.uploads[query["upload_id"]]
            begun["content"] += body
            size = next(v for n, v in headers.items() if n.lower() == "content-range").split("/")[1]
            if size == "*" or len(begun["content"]) < int(size):
                return 308, b"", {"Range": f"bytes=0-{len(begun['content']) - 1}"}
            name, body, wanted = begun["name"], begun["content"], begun["wanted"]
        generation = self.buckets.objects.get((bucket, name), (0, b""))[0]
        if wanted is not None and int(wanted) != generation:
            return 412, {"error": {"code": 412, "message": "another generation"}}, {}
        self.buckets.put(bucket, name, body)
        return 200, self.resource((bucket, name)), {}

    def resource(self, key: tuple[str, str]) -> dict[str, Any]:
        generation, content = self.buckets.objects[key]
        when = f"2026-01-02T03:04:{generation // 1000 % 60:02d}.{generation % 1000:03d}Z"
        return {
            "kind": "storage#object",
            "bucket": key[0],
            "name": key[1],
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "updated": when,
            "timeCreated": when,
        }


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        """A client that is gone is no news: some are killed."""


@contextlib.contextmanager
def serving(*names: str) -> Iterator[Buckets]:
    """Buckets of these names, until the block ends."""
    buckets = Buckets(*names)
    handler = type("Served", (Handler,), {"buckets": buckets})
    server = Server(("127.0.0.1", 0), handler)
    buckets.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield buckets
    finally:
        server.shutdown()
        server.server_close()
