"""What `drsformer derain` tells of its work as a whole: what is compiled, and how it went."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer_jax.errors import one_line
from drsformer_jax.jobs.stopping import Stopped

if TYPE_CHECKING:
    from drsformer_jax.film.source import Film
    from drsformer_jax.inference.derainer import Derainer

# JAX's events of tracing, lowering and compiling; the last also where a program is read from the
# cache.
_COMPILING = "/jax/core/compile/"
# How many frames tell how long a film takes; the first one compiles the network.
_TIMED_FRAMES = 4


def for_all_sizes(
    derainer: Derainer, sources: list[Path], tile: int | None, overlap: int
) -> Derainer:
    """The derainer prepared for the sizes of several images, as far as their headers tell them."""
    from drsformer_jax.data.formats.pillow import size_in_header

    if len(sources) == 1:
        return derainer
    sizes = [size for source in sources if (size := size_in_header(source)) is not None]
    derainer = derainer.for_sizes(sizes, tile=tile, overlap=overlap)
    programs, count = len(set(derainer.programs.values())), len(derainer.programs)
    if count > 1:
        print(f"{programs} {'program' if programs == 1 else 'programs'} for {count} sizes")
    return derainer


class Tally:
    """What is done of a number of images."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.images = self.pixels = 0
        self.compiling = 0.0
        self._start = time.perf_counter()

    def restored(self, height: int, width: int) -> None:
        """Counts one more image."""
        self.images += 1
        self.pixels += height * width

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around the work: counts the time of compiling, and tells what an interruption left."""
        from jax import monitoring

        monitoring.register_event_duration_secs_listener(self._on_event)
        try:
            yield
        except KeyboardInterrupt:
            print(f"interrupted: {self.images} of {self.count} images are done", file=sys.stderr)
            raise
        finally:
            monitoring.unregister_event_duration_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event.startswith(_COMPILING):
            self.compiling += duration_secs

    def summary(self, failures: int) -> str:
        """All in one line."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        failed = f", {failures} failed" if failures else ""
        return (
            f"{images}{failed}, {self.pixels / 1e6:.1f} megapixels in "
            f"{time.perf_counter() - self._start:.1f} s, of which {self.compiling:.1f} s compiling"
        )


class FilmProgress:
    """Called after each frame: moves the bar, and says once, early on, how long it takes.

    Attributes:
      new: frames that were restored now.
    """

    def __init__(self, film: Film, bar: Any, stopped: Callable[[], int]) -> None:
        self._film, self._bar, self._stopped = film, bar, stopped
        self._done = self.new = 0
        self._begun = 0.0

    def __call__(self, is_new: bool) -> None:
        """Raises Stopped: a signal was received."""
        if number := self._stopped():
            raise Stopped(number)
        self._bar.update()
        self._done += 1
        self.new += is_new
        if self.new == 1 and is_new:
            self._begun = time.perf_counter()
        if self.new == _TIMED_FRAMES and is_new and self._film.frames_expected:
            rate = (_TIMED_FRAMES - 1) / (time.perf_counter() - self._begun)
            left = max(0, self._film.frames_expected - self._done)
            self._bar.write(
                f"{one_line(self._film.path)}: about {left} frames to go, {rate:.2f} frames/s: "
                f"{_duration(left / rate)}"
            )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
