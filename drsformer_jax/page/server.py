"""The page and its API over HTTP: photographs in, PNG out, nothing kept."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

import drsformer_jax
from drsformer_jax.data.decoding import Decoded, decode_bytes
from drsformer_jax.data.encoding import png_bytes
from drsformer_jax.data.images import as_rgb
from drsformer_jax.errors import UserError, one_line, out_of_memory
from drsformer_jax.inference.photo import restore_photo
from drsformer_jax.page.evaluation import EvaluatedSet
from drsformer_jax.page.jobs import Job, JobQueue, QueueFull
from drsformer_jax.page.uploads import Upload, read_uploads
from drsformer_jax.scores.metrics import psnr, ssim
from drsformer_jax.scores.protocols import PROTOCOLS

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

T = TypeVar("T")

CAPACITY = 16
DEFAULT_PROTOCOL = "rain200"
_JOB_NAME = re.compile(r"[A-Za-z0-9-]{8,64}")
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Options:
    """What the page says of itself, and its limits.

    Attributes:
      weights: what the network's weights are called.
      tile, overlap: as for `Derainer`.
      max_bytes: of an upload.
      max_pixels: of an image.
      evaluation: what can be looked at.
    """

    weights: str
    tile: int | None
    overlap: int
    max_bytes: int
    max_pixels: int
    evaluation: tuple[EvaluatedSet, ...] = ()


class Page:
    """The handlers of all requests; `app` is the ASGI application, `jobs` its queue."""

    def __init__(self, derainer: Derainer, options: Options) -> None:
        self._derainer = derainer
        self._options = options
        self.jobs = JobQueue(CAPACITY)
        # In memory: no path that a client names is opened.
        files = {path.name: path for path in (Path(__file__).parent / "static").iterdir()}
        self._files = {
            name: (path.read_bytes(), _TYPES[path.suffix]) for name, path in files.items()
        }
        self.app = Starlette(
            routes=[
                Route("/api/derain", self.derain, methods=["POST"]),
                Route("/api/preview", self.preview, methods=["POST"]),
                Route("/api/jobs/{name}", self.job),
                Route("/api/info", self.info),
                Route("/api/evaluation", self.evaluation),
                Route("/api/evaluation/{index:int}/{picture:int}", self.evaluation_picture),
                Route("/", self.static),
                Route("/{name}", self.static),
            ],
            exception_handlers=_ERRORS,
        )

    async def static(self, request: Request) -> Response:
        found = self._files.get(request.path_params.get("name", "index.html"))
        if found is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1])

    async def info(self, request: Request) -> Response:
        return JSONResponse(
            {
                "version": drsformer_jax.__version__,
                "weights": self._options.weights,
                "network": self._derainer.config.summary(),
                "protocols": list(PROTOCOLS),
                "max_bytes": self._options.max_bytes,
                "max_pixels": self._options.max_pixels,
                "evaluation": bool(self._options.evaluation),
            }
        )

    async def derain(self, request: Request) -> Response:
        protocol = request.query_params.get("protocol", DEFAULT_PROTOCOL)
        form = request.query_params.get("format", "png")
        if protocol not in PROTOCOLS or form not in ("png", "json"):
            raise HTTPException(
                400, f"protocol is one of {', '.join(PROTOCOLS)}; format is png or json"
            )
        png, result = await self._in_turn(
            request, functools.partial(self._restored, protocol=protocol)
        )
        if form == "json":
            return JSONResponse(result | {"png": base64.b64encode(png).decode()})
        return Response(png, media_type="image/png", headers={"X-Result": json.dumps(result)})

    async def preview(self, request: Request) -> Response:
        """The photograph itself as PNG, for browsers that cannot show its format."""
        png = await self._in_turn(
            request, lambda uploads, _: png_bytes(self._decoded(uploads["image"]))
        )
        return Response(png, media_type="image/png")

    async def job(self, request: Request) -> Response:
        found = self.jobs.find(request.path_params["name"])
        if found is None:
            return JSONResponse({"state": "unknown"})
        ahead, job = found
        state = "waiting" if ahead else "working"
        return JSONResponse({"state": state, "ahead": ahead, "tile": job.tile, "tiles": job.tiles})

    async def evaluation(self, request: Request) -> Response:
        sets = [await asyncio.to_thread(one.document) for one in self._options.evaluation]
        return JSONResponse({"sets": sets})

    async def evaluation_picture(self, request: Request) -> Response:
        index, picture = request.path_params["index"], request.path_params["picture"]
        try:
            path = self._options.evaluation[index].pictures[picture]
        except IndexError:
            raise HTTPException(404) from None
        if not path.is_file():
            raise HTTPException(404, "the picture is no longer there")
        return FileResponse(path, media_type="image/png")

    async def _in_turn(self, request: Request, work: Callable[[dict[str, Upload], Job], T]) -> T:
        """What `work` makes of the uploaded files when it is their turn.

        Raises:
          HTTPException, QueueFull: they are refused.
          ClientDisconnect: nobody waits any more; the work is cancelled.
        """
        self.jobs.check_room()
        name = request.headers.get("x-job") or secrets.token_hex(16)
        if not _JOB_NAME.fullmatch(name):
            raise HTTPException(400, "X-Job is 8 to 64 letters, digits or hyphens")
        uploads = await read_uploads(request, self._options.max_bytes)
        try:
            job = self.jobs.add(name, functools.partial(work, uploads))
        except ValueError:
            raise HTTPException(409, f"there is a job {name} already") from None
        del uploads
        answer = asyncio.wrap_future(job.answer)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.cancelled():
                raise HTTPException(503, "the program is being ended")
            if not answer.done():
                raise ClientDisconnect
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()
            self.jobs.cancel(name)

    def _decoded(self, upload: Upload) -> Decoded:
        return decode_bytes(upload.data, upload.name, max_pixels=self._options.max_pixels)

    def _restored(
        self, uploads: dict[str, Upload], job: Job, protocol: str
    ) -> tuple[bytes, dict[str, Any]]:
        """The PNG file of `drsformer derain`, and what is to be said of it."""
        start = time.perf_counter()
        photo = self._decoded(uploads["image"])
        height, width = photo.samples.shape[:2]
        result: dict[str, Any] = {
            "name": uploads["image"].name,
            "width": width,
            "height": height,
            "notes": list(photo.notes),
        }
        target = as_rgb(self._decoded(uploads["target"])) if "target" in uploads else None
        if target is not None:
            # The rainy image first: a target of another size is told before the long work.
            before = _scores(photo, target, protocol)
            result |= {f"input_{metric}": value for metric, value in before.items()}
        restored = restore_photo(
            self._derainer,
            photo,
            tile=self._options.tile,
            overlap=self._options.overlap,
            on_tile=job.on_tile,
        )
        if target is not None:
            result |= {"protocol": protocol, **_scores(restored, target, protocol)}
        png = png_bytes(restored)
        return png, result | {"seconds": round(time.perf_counter() - start, 3)}


async def _gone(request: Request) -> None:
    """Returns when the client has gone; its whole request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _scores(photo: Decoded, target: Any, protocol: str) -> dict[str, float | str | None]:
    """PSNR (dB; "inf" where nothing differs, as in our reports) and SSIM by `drsformer score`."""
    rgb = as_rgb(photo)
    try:
        decibels, similarity = psnr(rgb, target, protocol), ssim(rgb, target, protocol)
    except ValueError as error:
        raise UserError(f"the target does not fit: {error}") from error
    return {"psnr": "inf" if math.isinf(decibels) else decibels, "ssim": similarity}


def _error(status: int, message: object, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": one_line(message)}, status, headers)


async def _http_error(request: Request, error: Any) -> Response:
    message = error.detail
    if message == HTTPStatus(error.status_code).phrase:  # Starlette's own words
        message = {404: "there is nothing here", 405: f"{request.method} is not for this address"}[
            error.status_code
        ]
    return _error(error.status_code, message, error.headers)


async def _nobody(request: Request, error: Any) -> Response:
    return Response(status_code=499)  # sent to nobody


def _answering(status: int, words: Callable[[Any], object], **headers: str) -> Any:
    async def answer(request: Request, error: Any) -> Response:
        return _error(status, words(error), headers)

    return answer


_ERRORS: dict[Any, Any] = {
    HTTPException: _http_error,
    ClientDisconnect: _nobody,
    UserError: _answering(422, str),
    MemoryError: _answering(413, out_of_memory),
    FloatingPointError: _answering(500, str),
    QueueFull: _answering(
        503,
        lambda error: "no more photographs are taken at the moment: try again later",
        **{"Retry-After": "60"},
    ),
    # Starlette raises it again, so that the server's console has it.
    Exception: _answering(500, lambda error: "a fault of this program: its console says more"),
}
