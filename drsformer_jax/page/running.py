"""The server's life: from the moment it is ready until it is interrupted."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from drsformer_jax.page.jobs import JobQueue


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves the work that is not done when it ends."""

    def __init__(self, config: uvicorn.Config, announcement: str, jobs: JobQueue) -> None:
        super().__init__(config)
        self._announcement = announcement
        self._jobs = jobs

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._jobs.close()
        await super().shutdown(sockets)


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether it is ours, and not of a client or of the end."""
    error = record.exc_info[1] if record.exc_info else None
    return error is not None and not isinstance(error, asyncio.CancelledError)


def make_server(app: ASGIApp, jobs: JobQueue, announcement: str) -> uvicorn.Server:
    """A server of an ASGI application, to be run on a socket that listens.

    Its `run` returns after SIGINT, which is raised as KeyboardInterrupt, or ends with SIGTERM.

    Args:
      app: the application.
      jobs: what it does; cancelled at the end.
      announcement: printed when requests are answered.
    """
    # With its traceback, for whoever reports it.
    console = logging.StreamHandler(sys.stderr)
    console.addFilter(_is_fault)
    log = logging.getLogger("uvicorn.error")
    log.handlers, log.propagate = [console], False
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Nobody stands between: what a client says of whom it speaks for is not believed.
        proxy_headers=False,
        server_header=False,
        # Clients that are slow to send are not waited for.
        timeout_graceful_shutdown=2,
    )
    return _Server(config, announcement, jobs)
