"""Weights on a hub that listens on this machine: pinned, checked, offline, published."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from drsformer_jax import load_weights
from drsformer_jax.checkpoints.hub import is_address
from drsformer_jax.checkpoints.weights import Weights, save_weights
from drsformer_jax.cli import main as cli
from drsformer_jax.errors import UserError
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import init_params

TINY = DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 1, 1, 1), use_mefc=False)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """What huggingface_hub asks of the hub, as far as it is asked here."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def answer(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        organisation, name, _, revision, file = (self.path[1:].split("/", 4) + [""] * 4)[:5]
        if (organisation, name) != ("team", "rain"):
            self.answer(404, b"", X_Error_Code="RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.answer(404, b"", X_Error_Code="RevisionNotFound")
        elif file not in self.server.files:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            content = self.server.files[file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        if self.headers["Authorization"] != "Bearer hf_test":
            self.answer(401, b"")
            return
        told: dict[str, Any] = {"url": "http://127.0.0.1/team/rain"}
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            told = {"files": [{"path": name, **how} for name in names]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            told = {"commitUrl": f"http://127.0.0.1/team/rain/commit/{COMMIT}", "commitOid": COMMIT}
        self.answer(200, json.dumps(told).encode(), Content_Type="application/json")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    resolve = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(TINY, init_params(TINY, jax.random.key(0)), {"score": "30 dB", "data": "rain"})


@pytest.fixture
def published(hub: Hub, weights: Weights, tmp_path: Path) -> Hub:
    save_weights(tmp_path / "w.safetensors", weights)
    hub.files["model.safetensors"] = (tmp_path / "w.safetensors").read_bytes()
    return hub


def test_weights_are_fetched_once_and_pinned(
    published: Hub, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_weights("hf://team/rain")
    assert found.metadata["source"] == f"hf://team/rain@{COMMIT}"
    assert found.metadata["score"] == "30 dB"
    jax.tree.map(np.testing.assert_array_equal, found.params, weights.params)
    assert Derainer.from_pretrained("team/rain").config == TINY

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    published.asked.clear()
    again = load_weights(f"hf://team/rain/model.safetensors@{COMMIT}")
    assert again.metadata["source"] == f"hf://team/rain@{COMMIT}"
    with pytest.raises(UserError, match="is not on this machine yet"):
        load_weights("hf://team/other")
    assert published.asked == []


def test_a_damaged_copy_is_found(published: Hub, tmp_path: Path) -> None:
    load_weights("hf://team/rain")
    (blob,) = (tmp_path / "cache").glob("models--team--rain/blobs/*")
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged in the hub's cache .*remove this file"):
        load_weights("hf://team/rain")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("hf://team/other", "there is no such repository, or it is private"),
        ("hf://team/rain@v9", "there is no revision v9"),
        ("hf://team/rain/none.safetensors", "has no file none.safetensors"),
        ("hf://team", "addresses on the hub look like hf://ORG/NAME"),
        ("hf://team/rain/w.pth", "addresses on the hub look like hf://ORG/NAME"),
        ("hf://team/rain/pickle.safetensors", "is no .safetensors file"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    published: Hub, address: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    published.files["pickle.safetensors"] = b"PK\x03\x04" + bytes(50)
    assert cli.main(["derain", __file__, "--weights", address]) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
    assert is_address(address)


def test_a_hub_that_cannot_be_reached_is_one_line(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.shutdown()
    hub.server_close()
    assert cli.main(["push", "rain_small", "team/rain", "--license", "mit"]) == 2
    told = capsys.readouterr().err
    assert "team/rain: cannot be published (ConnectError" in told
    assert told.count("\n") == 1


def test_push_publishes_weights_and_card(
    hub: Hub,
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_weights(tmp_path / "w.safetensors", weights)
    command = ["push", str(tmp_path / "w.safetensors"), "team/rain", "--license", "apache-2.0"]
    assert cli.main(command) == 2  # nobody has logged in
    assert "hf auth login" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"hf://team/rain@{COMMIT}\n"
    card = hub.files["README.md"].decode()
    header, text = card.removeprefix("---\n").split("\n---\n")
    for line in (
        "license: apache-2.0",
        "library_name: drsformer_jax",
        "pipeline_tag: image-to-image",
    ):
        assert line in header.splitlines()
    assert hashlib.sha256(hub.files["model.safetensors"]).hexdigest() in text
    assert "| scores | 30 dB |" in text
    fetched = load_weights("hf://team/rain")
    jax.tree.map(np.testing.assert_array_equal, fetched.params, weights.params)
