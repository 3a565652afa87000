"""Requests to stop, taken between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# How often a request is looked for while something else runs, in seconds.
PATIENCE = 0.1


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its state is saved.

    Attributes:
      number: of the signal: SIGINT or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopRequests:
    """The signals received so far; true once there is one."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def number(self) -> int:
        """Of the signal; of several that of SIGTERM, who is more in a hurry; 0 for none."""
        return max(self.received, default=0)

    def unless(self, work: Callable[[], T]) -> T | None:
        """The result of `work`, or None as soon as there is a request.

        The work is then left to itself, in a thread that does not keep the program from ending:
        compilers do not listen to signals. Errors of the work are raised here.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() and not self:
            thread.join(PATIENCE)
        if errors:
            raise errors[0]
        return results[0] if results else None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Collects SIGINT and SIGTERM, so that a step is never torn apart.

    A second one of the same kind works as usual.
    """
    requests = StopRequests()
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        requests.received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    with contextlib.suppress(ValueError):  # not in the main thread: leave the signals alone
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
