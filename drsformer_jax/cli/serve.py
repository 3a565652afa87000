"""`drsformer serve`: a local web page that derains photographs."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import secrets
import signal
import socket
import sys
from importlib.util import find_spec

from drsformer_jax.cli.restoring import add_restoring_arguments, load_derainer
from drsformer_jax.errors import UserError, missing_extra
from drsformer_jax.inference.tiles import check_tiling
from drsformer_jax.paths import local_path

DEFAULT_PORT = 7860
LAST_PORT = 65535
DEFAULT_MEGABYTES = 100
DEFAULT_PIXELS = 50_000_000
# As long as nobody tries out, and the same in addresses and cookies.
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")
# As cli.main has it.
EXIT_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer serve`."""
    parser.description = (
        "Show a web page on this machine that derains photographs and compares before and after, "
        "and answer programs at the same address (POST /api/derain). Photographs stay in memory "
        "and nothing is kept. Ctrl-C ends it."
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="address to listen at (default: %(default)s, this machine alone); others can use any "
        "other one, and need the token that is then printed",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="P",
        help="0: any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="ask for this token, at 127.0.0.1 as well (default: none there, else a random one)",
    )
    parser.add_argument(
        "--evaluation",
        type=local_path,
        metavar="FOLDER",
        help="WORKDIR/evaluation, as eval.py writes it: the page shows its scores and pictures",
    )
    parser.add_argument(
        "--max-upload",
        type=int,
        default=DEFAULT_MEGABYTES,
        metavar="MB",
        help="megabytes of a photograph and its target, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=DEFAULT_PIXELS,
        metavar="N",
        help="pixels of a photograph, at most (default: %(default)s)",
    )
    add_restoring_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until it is interrupted, which raises KeyboardInterrupt.

    Raises:
      UserError: a mistake in the arguments, a port that is taken, or packages that are missing.
    """
    check_tiling(args.tile, args.overlap)
    for package in ("starlette", "uvicorn", "python_multipart"):
        if find_spec(package) is None:
            raise missing_extra(package, "serve", "`drsformer serve`")
    if args.token is not None and not TOKEN.fullmatch(args.token):
        raise UserError("--token must be 16 or more letters, digits, - and _")
    if not 0 <= args.port <= LAST_PORT:
        raise UserError(f"--port must be 0 to {LAST_PORT}, not {args.port}")
    for flag, value in (("--max-upload", args.max_upload), ("--max-pixels", args.max_pixels)):
        if value < 1:
            raise UserError(f"{flag} must be positive, not {value}")
    from drsformer_jax.checkpoints.catalogue import DEFAULT
    from drsformer_jax.checkpoints.hub import name_of
    from drsformer_jax.page.evaluation import evaluated_sets
    from drsformer_jax.page.guard import Guard
    from drsformer_jax.page.running import make_server
    from drsformer_jax.page.server import Options, Page

    options = Options(
        weights=name_of(args.weights or DEFAULT),
        tile=args.tile,
        overlap=args.overlap,
        blend=args.blend,
        max_bytes=args.max_upload * 1_000_000,
        max_pixels=args.max_pixels,
        evaluation=() if args.evaluation is None else evaluated_sets(args.evaluation),
    )
    with _listening(args.host, args.port) as listener:
        address, port = listener.getsockname()[:2]
        is_private = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        token = args.token or (None if is_private else secrets.token_urlsafe())
        page = Page(load_derainer(args), options)
        guard = Guard(page.app, host=args.host, port=port, token=token)
        announcement = _announcement(address, port, token, is_private)
        # A shell's background programs ignore SIGINT: its end is told alike there.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            make_server(guard, page.jobs, announcement).run(sockets=[listener])
        except KeyboardInterrupt:
            if page.jobs.is_working:
                # A forward cannot be interrupted, and Python must not end around it.
                sys.stdout.flush()
                os._exit(EXIT_INTERRUPTED)
            raise
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket that connections can be made to.

    Raises:
      UserError: there is no such address, or it is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: cannot be listened at ({reason}); another port: --port P"
        ) from error


def _announcement(address: str, port: int, token: str | None, is_private: bool) -> str:
    everywhere = ipaddress.ip_address(address.partition("%")[0]).is_unspecified
    name = socket.gethostname() if everywhere else address
    query = f"?token={token}" if token else ""
    text = f"http://{f'[{name}]' if ':' in name else name}:{port}/{query}  (Ctrl-C ends it)"
    if is_private:
        return text
    return f"{text}\nWhoever has this address can use it; what is sent is not encrypted."
