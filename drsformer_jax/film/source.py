"""The frames of a film, each with its time, whatever the file looks like."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from drsformer_jax.errors import UserError

# Codes of ITU-T H.273, which FFmpeg and PyAV use for tags of colour.
BT709, SMPTE170M = 1, 6
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2
# The matrices that pixels are converted with; any other one is taken for unspecified.
MATRICES = (1, 4, 5, 6, 7, 9)
# Untagged films of more lines are taken for BT.709, as players do.
MOST_LINES_OF_BT601 = 576

# FFmpeg's names of what is read: files of one piece. Others name files and addresses to open.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg"

PLAIN_FORMATS = ("yuv420p", "yuvj420p", "nv12", "gray")


@dataclasses.dataclass(frozen=True)
class Look:
    """What all frames of a film have in common, and its file says of them.

    Attributes:
      width, height: as coded, in pixels; another size in mid-film is scaled to this one.
      orientation: the display matrix's first two rows and columns; None: shown as coded.
      aspect: of a pixel, width / height, as coded; None: not told.
      matrix, is_full: what pixels are converted with.
      colorspace, color_range, color_primaries, color_trc: tags, as they are in the file.
      time_base: seconds a tick.
      rate: frames a second, on average, as the file says: an estimate.
    """

    width: int
    height: int
    orientation: tuple[int, int, int, int] | None
    aspect: Fraction | None
    matrix: int
    is_full: bool
    colorspace: int
    color_range: int
    color_primaries: int
    color_trc: int
    time_base: Fraction
    rate: Fraction

    @property
    def is_on_its_side(self) -> bool:
        """Whether its rows are shown as columns."""
        return self.orientation is not None and self.orientation[0] == 0

    @property
    def size_upright(self) -> tuple[int, int]:
        """Width and height as it is shown, in its own pixels."""
        sides = self.width, self.height
        return sides[::-1] if self.is_on_its_side else sides


def _losses(kind: Any) -> list[str]:
    """What pixels of a kind (av.VideoFormat) become when they are written as yuv420p."""
    is_finer = kind.is_rgb or kind.chroma_width(2) > 1 or kind.chroma_height(2) > 1
    losses = {
        "8 bits a sample": any(component.bits > 8 for component in kind.components),
        "4:2:0": len(kind.components) > 2 and is_finer,
        "opaque": any(component.is_alpha for component in kind.components),
    }
    return [words for words, is_lost in losses.items() if is_lost] or ["yuv420p"]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open container of a local file; of one that names other files or addresses, none.

    Raises:
      UserError: it is no film, or cannot be read.
    """
    try:
        container = av.open(
            f"file:{path}",
            container_options={"format_whitelist": _FORMATS},
            metadata_errors="surrogateescape",
        )
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(path)) from error
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a film ({getattr(error, 'strerror', None) or error}): "
            "damaged, cut short, or of another kind"
        ) from error
    with container:
        yield container


class Clock:
    """Whole-number times of a stream, which grow, whatever the file says."""

    def __init__(self, tick: Fraction) -> None:
        self._second = round(1 / tick)
        self._shift = 0
        self._last: int | None = None
        self._next = 0

    def __call__(self, time: int | None, length: int) -> int:
        """The time of a frame or packet of so many ticks; None: the file does not tell.

        One that goes back by more than a second, as where recordings were put one behind the other,
        goes on from there; by less, it comes a tick after the one before.
        """
        now = self._next if time is None else time + self._shift
        if self._last is not None and now < self._last - self._second:
            self._shift += self._next - now
            now = self._next
        elif self._last is not None:
            now = max(now, self._last + 1)
        self._last, self._next = now, now + length
        return now


class Film:
    """A film: the first stream of moving pictures in a file.

    Attributes:
      path: of the file.
      look: see `Look`.
      index: of the stream in the file.
      metadata: what the file says of itself: title, location, ...
      notes: what is to be said of it, a line each.
      frames_expected: what the file says, or None; an estimate.
      bad_packets: how many are damaged, as the last pass of `frames` found.
      is_cut_short: whether reading ended with an error in it.
    """

    def __init__(self, path: Path) -> None:
        """Reads as far as the first frame.

        Raises:
          UserError: there are no frames, or they are HDR.
        """
        self.path = path
        self.notes: list[str] = []
        self.bad_packets = 0
        self.is_cut_short = False
        with opened(path) as container:
            moving = [
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic
            ]
            if not moving or moving[0].codec_context is None:
                why = "of an unknown codec" if moving else "no moving pictures in it"
                raise UserError(f"{path}: {why}; nothing is written")
            self.metadata = dict(container.metadata)
            stream = moving[0]
            self.index = stream.index
            frame = next(self._decoded(container), None)
            if frame is None:
                raise UserError(f"{path}: not one frame can be decoded; nothing is written")
            self.look = self._looked_at(stream, frame)
            seconds = (container.duration or 0) / av.time_base
            self.frames_expected = stream.frames or round(seconds * self.look.rate) or None

    def _looked_at(self, stream: Any, frame: Any) -> Look:
        """The look of the first frame; says what does not stay.

        Raises:
          UserError: it is HDR.
        """
        if frame.color_trc in (PQ, HLG):
            kind = "PQ" if frame.color_trc == PQ else "HLG"
            raise UserError(
                f"{self.path}: is HDR ({kind}), which the network does not know: convert it to SDR "
                "first, with ffmpeg's filters zscale and tonemap, say"
            )
        name = frame.format.name
        if name not in PLAIN_FORMATS:
            self.notes.append(f"{name} becomes {', '.join(_losses(frame.format))}")
        if frame.interlaced_frame:
            self.notes.append(
                "is interlaced: both fields are restored as one picture; deinterlace it first for "
                "a better one"
            )
        is_rgb = frame.format.is_rgb
        guess = BT709 if frame.height > MOST_LINES_OF_BT601 else SMPTE170M
        is_full = frame.color_range == FULL or name.startswith("yuvj")
        return Look(
            width=frame.width,
            height=frame.height,
            orientation=self._orientation(frame),
            aspect=stream.sample_aspect_ratio or None,
            matrix=frame.colorspace if frame.colorspace in MATRICES else guess,
            is_full=is_full and not is_rgb,
            colorspace=guess if is_rgb else frame.colorspace,
            color_range=LIMITED if is_rgb else frame.color_range,
            color_primaries=frame.color_primaries,
            color_trc=frame.color_trc,
            time_base=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
        )

    def _orientation(self, frame: Any) -> tuple[int, int, int, int] | None:
        """The signs in the display matrix of a frame, if it turns by right angles."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return None
        a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(bytes(data), np.int32))
        turned = tuple(int(np.sign(value)) for value in (a, b, c, d))
        if (a or d) and (b or c):
            self.notes.append(f"is shown turned by {frame.rotation} degrees, which is not kept")
            return None
        return None if turned == (1, 0, 0, 1) else turned  # type: ignore[return-value]

    def frames(self) -> Iterator[Any]:
        """All frames (av.VideoFrame), the times of which grow; one more pass over the file.

        What cannot be decoded is left out and counted.
        """
        self.bad_packets = 0
        tick = self.look.time_base
        clock = Clock(tick)
        with opened(self.path) as container:
            for frame in self._decoded(container):
                frame.duration = frame.duration or max(1, round(1 / (self.look.rate * tick)))
                frame.pts, frame.time_base = clock(frame.pts, frame.duration), tick
                yield frame

    def _decoded(self, container: Any) -> Iterator[Any]:
        stream = container.streams[self.index]
        for packet in self.packets(container, stream):
            is_damaged = packet.is_corrupt
            try:
                frames = stream.decode(packet)
            except av.error.FFmpegError:
                is_damaged, frames = True, []
            self.bad_packets += is_damaged
            yield from frames

    def packets(self, container: Any, *streams: Any) -> Iterator[Any]:
        """Packets of streams (of all, without any), as far as they can be read.

        An empty packet, behind all others, takes what is left out of a decoder.
        """
        reading = container.demux(*streams)
        try:
            yield from reading
        except av.error.FFmpegError:
            self.is_cut_short = True
            yield av.Packet()
