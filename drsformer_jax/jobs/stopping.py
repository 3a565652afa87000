"""Signals that ask a program to end, heard between two pieces of work."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


class Stopped(BaseException):
    """A signal asked the program to end.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def listening() -> Iterator[Callable[[], int]]:
    """Notes SIGINT and SIGTERM, so that no work is torn apart; a second one works as usual.

    JAX computes in threads of its own, and Python must not end around them.

    Yields:
      What returns the number of the first signal, or 0 as long as there is none.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        signal.signal(number, previous[number])

    with contextlib.suppress(ValueError):  # not in the main thread: leave the signals alone
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)
