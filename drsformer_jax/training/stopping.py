"""Whether a run is to stop: signals, and all processes of the run agreeing on them."""

from __future__ import annotations

import collections
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

# How often a request is looked for while something else runs, in seconds.
PATIENCE = 0.1

# A request to stop takes so many steps to be agreed on, so that no step waits for the message.
STEPS_TO_AGREE = 2


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its state is saved.

    Attributes:
      number: of the signal: SIGINT or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """The signal that a run is to stop for.

    Attributes:
      number: of the signal, the same in all processes after the same step; 0: go on.
      received: signals to this process, so far.
    """

    def __init__(self) -> None:
        self.number = 0
        self.received: list[int] = []
        self._compiled: set[Any] = set()
        self._pending: collections.deque[Any] = collections.deque()
        self._alone = jax.process_count() == 1
        if not self._alone:
            mesh = Mesh(np.array(jax.devices()), ("device",))
            self._split = NamedSharding(mesh, PartitionSpec("device"))
            self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    @property
    def own(self) -> int:
        """The signal to this process; of several SIGTERM, who is more in a hurry; 0: none."""
        return max(self.received, default=0)

    def agree(self) -> None:
        """Takes up what the processes were asked for: a request to one of them is one to all.

        Every process must call it at each step. It is about the requests of `STEPS_TO_AGREE` calls
        ago: by then they have been compared on the devices, and nobody waits for it.
        """
        if self._alone or self.number:
            self.number = self.number or self.own
            return
        local = np.full(jax.local_device_count(), self.own, np.int32)
        told = jax.make_array_from_process_local_data(self._split, local)
        self._pending.append(self._largest(told))
        if len(self._pending) > STEPS_TO_AGREE:
            self.number = int(self._pending.popleft())

    def at_once(self) -> None:
        """Stops for the signal to this process, or for that to another one."""
        self.number = self.own or signal.SIGTERM

    def unless(self, work: Callable[[], T]) -> T | None:
        """The result of `work`, or None as soon as this process is asked to stop.

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
        while thread.is_alive() and not self.received:
            thread.join(PATIENCE)
        if errors:
            raise errors[0]
        return results[0] if results else None

    def unless_compiling(self, step: Callable[[], T], shape: Any, nothing_new: bool) -> T | None:
        """The result of a step, or None: asked to stop while it is compiled for a batch's shape.

        A compilation can take longer than there is time to leave. It is not waited for where
        nothing is lost by it: `nothing_new`, the state before the step is saved.
        """
        compiled = shape in self._compiled
        self._compiled.add(shape)
        return self.unless(step) if nothing_new and not compiled else step()


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Hears SIGINT and SIGTERM, so that a step is never torn apart.

    A second one of the same kind works as usual.
    """
    stop = Stop()
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        stop.received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    with contextlib.suppress(ValueError):  # not in the main thread: leave the signals alone
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
