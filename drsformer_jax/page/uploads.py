"""Uploaded files, read into memory within limits: nothing is written to disk."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

# What is wrong with a form is told to who sent it.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Without a byte for so many seconds, a client is given up.
PATIENCE = 30.0


@dataclass(frozen=True)
class Upload:
    """A file that a client sent; its name is nothing but a word in messages."""

    name: str
    data: bytes


class _InMemory(MultiPartParser):
    """Starlette's parser writes what is larger than a megabyte to a temporary file."""

    spool_max_size = sys.maxsize


async def read_uploads(request: Request, max_bytes: int) -> dict[str, Upload]:
    """The files 'image' and, if there is one, 'target' of a multipart request.

    Raises:
      HTTPException: 413 for more than `max_bytes`, told before they are read where the client
        says how many there are; 408 for a client that sends nothing any more; 415 and 400 for
        other forms.
      ClientDisconnect: the client went away.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > max_bytes:
        raise _too_large(max_bytes)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "send the photograph as field 'image' of multipart/form-data")
    try:
        form = await _InMemory(
            request.headers, _limited(request, max_bytes), max_files=2, max_fields=0
        ).parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from None
    files = {
        field: Upload(_file_name(file), await file.read())
        for field, file in form.items()
        if isinstance(file, UploadFile)
    }
    await form.close()
    if "image" not in files or files.keys() - {"image", "target"}:
        raise HTTPException(400, "the fields are 'image', a file, and 'target', if there is one")
    return files


def _file_name(file: UploadFile) -> str:
    """The last part of the name that the client gave it."""
    return (file.filename or "").replace("\\", "/").rpartition("/")[2] or "image"


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    seen = 0
    stream = request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), PATIENCE)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(408, f"nothing came for {PATIENCE:.0f} seconds") from None
        seen += len(chunk)
        if seen > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"at most {max_bytes / 1e6:g} MB can be sent (drsformer serve --max-upload)"
    )
