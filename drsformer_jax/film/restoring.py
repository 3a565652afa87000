"""A film restored, frame by frame, in parts of some seconds that are never done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

from drsformer_jax.errors import UserError
from drsformer_jax.files import sha256
from drsformer_jax.film.encoding import Encoding
from drsformer_jax.film.joining import CONTAINERS, Joiner
from drsformer_jax.film.parts import Parts
from drsformer_jax.film.pixels import Pixels
from drsformer_jax.film.source import Film

PART_SECONDS = 4
# Of what a file says; uneven times make some say thousands.
MOST_FRAMES_A_SECOND = 60

Restore = Callable[[np.ndarray], np.ndarray]
# Around the work on a part, by its number.
Around = Callable[[int], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a film.

    Attributes:
      frames: how many were written.
      rainy: of these, how many could not be restored, and are as they were.
      bad_packets: of the source, that are damaged.
      is_cut_short: the source ends before its end.
    """

    frames: int
    rainy: int
    bad_packets: int
    is_cut_short: bool


class FilmDerainer:
    """One film on its way from a file to another.

    Attributes:
      source, destination: the files.
      film: the source, as it was looked at.
      parts: what is done of it.
      notes: what does not stay as it is, a line each.
    """

    def __init__(
        self,
        source: Path,
        destination: Path,
        encoding: Encoding,
        is_kept: Callable[[str], bool] = lambda key: True,
    ) -> None:
        """Looks at the source and tries out what is to be written; writes nothing.

        Args:
          is_kept: of what the file says of itself, by its name: title, location, ...

        Raises:
          UserError: the one is no film, or the other cannot be.
        """
        self.film = Film(source)
        self.parts = Parts(destination)
        self.source, self.destination, self._encoding = source, destination, encoding
        container = CONTAINERS[destination.suffix.lower()]
        self._joiner = Joiner(self.film, encoding, container, is_kept)
        self._pixels = Pixels(self.film.look)
        self.notes = self.film.notes + self._joiner.notes

    def run(
        self,
        restore: Restore,
        made_with: dict[str, Any],
        *,
        overwrite: bool = False,
        on_frame: Callable[[bool], None] = lambda is_new: None,
        takes: Callable[[int], bool] | None = None,
        around: Around = lambda number: contextlib.nullcontext(),
    ) -> Outcome | None:
        """Restores what is not restored yet, and writes the film.

        Args:
          restore: of one frame, uint8 `H W 3`, to the same. Where it raises FloatingPointError or
            MemoryError the frame stays as it is; from the first one of a film, the error is raised.
          made_with: all that decides what the frames become, beside the source and the encoding.
          overwrite: begin anew where there are parts of another job.
          on_frame: called after each frame; `is_new`: it was in no part that was there.
          takes: of several runs that share the film, the parts that this one restores.

        Returns:
          What became of it; None: others of those that share it have yet to do their parts.

        Raises:
          UserError: the parts there are of another job, or one is damaged; another run is at work.
          FloatingPointError, MemoryError: not even one frame can be restored.
          OSError: something cannot be written.
        """
        length = max(1, round(PART_SECONDS * min(float(self.film.look.rate), MOST_FRAMES_A_SECOND)))
        job = {
            "input": sha256(self.film.path),
            "codec": self._encoding.codec,
            "crf": self._encoding.crf,
            "frames of a part": length,
            "PyAV": av.__version__,
            **made_with,
        }
        shared = takes is not None
        with self.parts.held(shared=shared) as is_last:
            self.parts.begin(job, overwrite=overwrite, shared=shared)
            frames = self.film.frames()
            restorer = _Restorer(restore, may_fail=self.parts.path(0).exists())
            count = 0
            while (first := next(frames, None)) is not None:
                part = itertools.chain([first], itertools.islice(frames, length - 1))
                if self.parts.path(count).exists() or (takes is not None and not takes(count)):
                    for _ in part:
                        on_frame(False)
                else:
                    with around(count):
                        self.parts.write(count, self._encoded(part, restorer, on_frame))
                count += 1
            are_there = all(self.parts.path(number).exists() for number in range(count))
            if shared and not (are_there and is_last()):
                return None
            self._joiner.join(self.destination, self.parts, count)
            kept = [self.parts.read(number, "rainy", "size") for number in range(count)]
            self.parts.remove()
        return Outcome(
            frames=sum(len(sizes) for _, sizes in kept),
            rainy=sum(int(rainy) for rainy, _ in kept),
            bad_packets=self.film.bad_packets,
            is_cut_short=self.film.is_cut_short,
        )

    def _encoded(
        self, frames: Iterable[Any], restorer: _Restorer, on_frame: Callable[[bool], None]
    ) -> dict[str, Any]:
        """The arrays of a part, see `Parts.read`."""
        encoder = self._encoding.context(self.film.look, flags=self._joiner.flags)
        already = restorer.failures
        packets: list[Any] = []
        for frame in frames:
            restored = restorer(self._pixels.rgb(frame))
            new = self._pixels.frame(restored, encoder.pix_fmt, encoder.width, encoder.height)
            new.pts, new.time_base, new.duration = frame.pts, frame.time_base, frame.duration
            packets += encoder.encode(new)
            on_frame(True)
        packets += encoder.encode(None)
        pts = np.array([packet.pts for packet in packets], np.int64)
        if (np.diff(pts) <= 0).any():
            raise UserError(
                f"--codec {self._encoding.codec}: puts frames out of order: name another"
            )
        return {
            "pts": pts,
            "duration": np.array([packet.duration or 0 for packet in packets], np.int64),
            "size": np.array([packet.size for packet in packets], np.int64),
            "is_key": np.array([packet.is_keyframe for packet in packets]),
            "data": np.frombuffer(b"".join(map(bytes, packets)), np.uint8),
            "rainy": restorer.failures - already,
        }


class _Restorer:
    """Restores frames; one that fails stays as it is, if it may: else it is the first of all."""

    def __init__(self, restore: Restore, may_fail: bool) -> None:
        self._restore, self._may_fail = restore, may_fail
        self.failures = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        try:
            image = self._restore(image)
        except (FloatingPointError, MemoryError):
            if not self._may_fail:
                raise
            self.failures += 1
        self._may_fail = True
        return image
