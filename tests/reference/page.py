"""A page around a network that halves every value, and pictures to send to it."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from drsformer_jax.data.decoding import Decoded
from drsformer_jax.data.encoding import png_bytes
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS
from drsformer_jax.page.guard import Guard
from drsformer_jax.page.server import Options, Page

PATIENCE = 20
HOME = "http://127.0.0.1:7860"
OPTIONS: dict[str, Any] = {
    "weights": "half", "tile": None, "overlap": 32, "max_bytes": 1_000_000, "max_pixels": 100_000
}  # fmt: skip


class Half(Derainer):
    """Halves every value, when it is let: `gate` is open unless a test closes it.

    Attributes:
      begun: released once for each tile that is begun.
      together, most: how many forwards there are at the moment, and were at most.
    """

    def __init__(self) -> None:
        super().__init__(PRESETS["tiny"], {}, restore=lambda _, image: image)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.together = self.most = 0

    def _restore_tile(self, tile: np.ndarray) -> np.ndarray:
        self.together += 1
        self.most = max(self.most, self.together)
        self.begun.release()
        opened = self.gate.wait(PATIENCE)
        self.together -= 1
        assert opened
        return np.float32(0.5) * tile


@dataclass
class Live:
    """A page that is served at a port of this machine; `server` ends when it is told."""

    server: Any
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def make_client(derainer: Derainer, *, token: str | None = None, **options: Any) -> TestClient:
    page = Page(derainer, Options(**OPTIONS | options))
    guard = Guard(page.app, host="127.0.0.1", port=7860, token=token)
    return TestClient(guard, base_url=HOME, raise_server_exceptions=False)


def pixels(
    channels: int = 3, dtype: Any = np.uint8, size: tuple[int, int] = (13, 21)
) -> np.ndarray:
    highest = np.iinfo(dtype).max
    return np.random.default_rng(4).integers(0, highest, (*size, channels), dtype, endpoint=True)


def png(samples: np.ndarray) -> bytes:
    return png_bytes(Decoded(samples))


def jpeg(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, format="JPEG")
    return file.getvalue()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
