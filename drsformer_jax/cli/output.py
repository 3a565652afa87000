"""What a program prints: it may fail, and no work is lost by that."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TextIO

from drsformer_jax.errors import UserError, one_line

EXIT_NOT_PRINTED = 2
EXIT_BROKEN_PIPE = 141


class _Sink(io.FileIO):
    """A file descriptor that takes everything; `failure` is why it first could not be written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


def print_safely(program: str, work: Callable[[], int]) -> int:
    """Runs `work` with a stdout and a stderr that take any text and never raise.

    Warnings that are logged appear on stderr, a line each and nothing else.

    File names that are no text in the locale are printed with escapes. What cannot be written, on
    a full disk or because the reader went away, is dropped, and the work goes on.

    Returns:
      What `work` returns; but if stdout failed, and nothing worse, 141 where the reader went away
      and otherwise 2, told in one line on stderr.
    """
    with _streams() as stdout, _notes():
        code = work()
        sys.stdout.flush()
        failure = stdout.failure if stdout else None
        if failure is None or code == EXIT_NOT_PRINTED:
            return code
        if isinstance(failure, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        print(
            f"{program}: error: what was to be printed is lost: stdout cannot be written "
            f"({failure.strerror})",
            file=sys.stderr,
        )
        return EXIT_NOT_PRINTED


@contextlib.contextmanager
def _streams() -> Iterator[_Sink | None]:
    """Puts safe streams in the place of sys.stdout and sys.stderr; yields what stdout ends in."""
    before = sys.stdout, sys.stderr
    (sys.stdout, sink), (sys.stderr, _) = map(_safe, before)
    try:
        yield sink
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class _Notes(logging.Handler):
    """Prints messages as they are, on what is stderr at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(one_line(record.getMessage()), file=sys.stderr)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Takes what is logged before some library does, with its names of modules in front."""
    root, notes = logging.getLogger(), _Notes(logging.WARNING)
    if not root.handlers:
        root.addHandler(notes)
    try:
        yield
    finally:
        root.removeHandler(notes)


def _safe(stream: Any) -> tuple[TextIO, _Sink | None]:
    """A safe stream to the same place, and its end; none if the stream has no descriptor."""
    if stream is None:
        # Closed before the program began: unless it is taken, its number goes to the next file.
        null = os.open(os.devnull, os.O_WRONLY)
        return open(null, "w", errors="backslashreplace", closefd=False), None
    try:
        sink = _Sink(stream.fileno(), "w", closefd=False)
        safe = io.TextIOWrapper(
            sink if stream.write_through else io.BufferedWriter(sink),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    except (AttributeError, OSError, ValueError):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        return stream, None
    stream.flush()
    return safe, sink


def require_stream(stream: Any, what: str, instead: str) -> BinaryIO:
    """The bytes of standard input or output, where they are no terminal's.

    Raises:
      UserError: they are, or it is closed.
    """
    if stream is None or stream.isatty():
        is_not = "is closed" if stream is None else "is a terminal"
        raise UserError(f"{what}: {is_not}: {instead}")
    binary: BinaryIO = stream.buffer
    return binary


def write_whole(stream: BinaryIO, data: bytes) -> None:
    """Writes all, also where the stream is unbuffered and takes it in parts."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def quiet_orbax() -> None:
    """Drops what Orbax logs, and what its event loop says when an error has closed it.

    Every error of a checkpoint reaches the caller as an exception, too, and is told in one line.
    """
    # Imported first, absl makes the logger, and its records say where they come from.
    importlib.import_module("absl.logging")
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(lambda record: False)
    sys.unraisablehook = _ignore_closed_loop


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _ignore_closed_loop(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
