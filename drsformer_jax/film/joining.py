"""Restored pictures, and the sound and all else of the source as it is, in one file."""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from drsformer_jax.errors import UserError, words_of
from drsformer_jax.film.encoding import Encoding
from drsformer_jax.film.parts import JOINED, Parts
from drsformer_jax.film.source import Clock, Film, opened

# Suffixes of what is written, and FFmpeg's names. Others hold no times, or sound of few kinds.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
}
OTHERWISE = ".mkv"
# Units of a second in a film's header, at least; MP4 has only 1000 of its own accord.
_FINEST = 10_000
# FFmpeg's names of files whose headers say how long they are, and how far that may be off. Of
# others it is measured on what there is.
_TELLS_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_SLACK_SECONDS = Fraction(1, 2)


def suffix_for(source: Path, codec: str) -> str:
    """That of the source, if such a file can hold the codec; else .mkv, which takes all."""
    suffix = source.suffix.lower()
    try:
        with av.open(io.BytesIO(), "w", format=CONTAINERS[suffix]) as output:
            output.add_stream(codec)
    except (KeyError, ValueError):
        return OTHERWISE
    return suffix


class Joiner:
    """Writes the film.

    Attributes:
      notes: what of the source is left out, a line each.
      flags: what the encoder has to heed for this container.
    """

    def __init__(
        self, film: Film, encoding: Encoding, container: str, is_kept: Callable[[str], bool]
    ) -> None:
        """Tries out, before any work, that the container takes what is to be in it.

        Args:
          container: FFmpeg's name, of `CONTAINERS`.
          is_kept: of metadata, by their names.

        Raises:
          UserError: it does not, or not the sound.
        """
        self._film, self._encoding, self._container = film, encoding, container
        self._is_kept = is_kept
        self.notes: list[str] = []
        with opened(film.path) as source:
            left_out = []
            self._kept: list[int] = []
            for stream in source.streams:
                if stream.index == film.index:
                    continue
                if self._takes(stream):
                    self._kept.append(stream.index)
                elif stream.type == "audio" and container != "matroska":
                    raise UserError(
                        f"{film.path}: a {container} file cannot hold its sound ({stream.name}): "
                        "name -o NAME.mkv"
                    )
                # Titles of chapters are a stream in MP4, which is written anew from the chapters.
                elif stream.name != "bin_data" or not source.chapters():
                    left_out.append(f"{stream.type} {stream.index} ({stream.name})")
            if left_out:
                self.notes.append(f"of its streams are left out: {', '.join(left_out)}")
            try:
                with self._output() as output:
                    streams = self._streams(output, source)
                    self.flags = streams[film.index].codec_context.flags
                    output.start_encoding()
            except (av.error.FFmpegError, ValueError) as error:
                raise UserError(
                    f"{film.path}: a {container} file cannot hold it ({words_of(error)}): name "
                    "another with -o NAME.mkv, or another --codec"
                ) from error

    def _takes(self, stream: Any) -> bool:
        """Whether the container takes a stream of sound, subtitles or fonts as it is."""
        if stream.type not in ("audio", "subtitle", "attachment"):
            return False
        try:
            with self._output() as output:
                output.add_stream_from_template(stream)
                output.start_encoding()
        except (av.error.FFmpegError, ValueError):
            return False
        return True

    def _output(self, path: Path | None = None) -> Any:
        """An output of the container, in memory without a path."""
        # The same film, byte for byte, from the same parts: no random numbers, no dates of today.
        options = {"fflags": "+bitexact"}
        if self._container in ("mp4", "mov"):
            ticks = self._film.look.time_base.denominator
            options["movie_timescale"] = str(ticks * -(-_FINEST // ticks))
            # Names with dots are of phones' makers; the tags of MP4's own have no place for them.
            has_makers = any("." in key for key in self._film.metadata)
            flags = ["+use_metadata_tags"] if has_makers else []
            # The index in front, so that players need not read to the end; it takes a second pass.
            flags += ["+faststart"] if path else []
            options |= {"movflags": "".join(flags)} if flags else {}
        return av.open(
            f"file:{path}" if path else io.BytesIO(),
            "w",
            format=self._container,
            container_options=options,
            metadata_errors="surrogateescape",
        )

    def _streams(self, output: Any, source: Any) -> dict[int, Any]:
        """Gives an output its streams; returns them by their indices in the source."""
        streams = {}
        for stream in source.streams:
            if stream.index == self._film.index:
                streams[stream.index] = self._encoding.stream(output, self._film.look)
            elif stream.index in self._kept:
                streams[stream.index] = output.add_stream_from_template(stream)
            else:
                continue
            streams[stream.index].metadata.update(self._kept_of(stream.metadata))
            streams[stream.index].disposition = stream.disposition
        output.metadata.update(self._kept_of(self._film.metadata))
        output.set_chapters(source.chapters())
        return streams

    def _kept_of(self, metadata: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in metadata.items() if self._is_kept(key)}

    def join(self, destination: Path, parts: Parts, count: int) -> None:
        """Writes `count` parts and what is kept; says so to the film if the file is cut short.

        Raises:
          UserError: a part is damaged.
          OSError: it cannot be written.
        """
        joined = parts.folder / f"{JOINED}{destination.suffix}"
        with opened(self._film.path) as source, self._output(joined) as output:
            streams = self._streams(output, source)
            pictures = _pictures(parts, count, self._film.look.time_base)
            for packet, stream in heapq.merge(
                ((packet, streams[self._film.index]) for packet in pictures),
                ((packet, streams[packet.stream.index]) for packet in self._copied(source)),
                key=lambda found: float(found[0].dts * found[0].time_base),
            ):
                packet.stream = stream
                try:
                    output.mux(packet)
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    if stream.type == "video":
                        raise
                    self._film.bad_packets += 1
        os.replace(joined, destination)

    def _copied(self, source: Any) -> Iterator[Any]:
        """The packets that are kept as they are, the times of each stream in order."""
        # Subtitles may well begin at the same time.
        clocks = {stream.index: Clock(stream.time_base) for stream in source.streams.audio}
        end = Fraction(0)
        for packet in self._film.packets(source):
            pts = packet.dts if packet.pts is None else packet.pts
            if pts is None:  # the end of a stream
                continue
            end = max(end, (pts + (packet.duration or 0)) * packet.time_base)
            index = packet.stream.index
            if index in self._kept:
                dts = pts if packet.dts is None else packet.dts
                packet.dts = clocks[index](dts, packet.duration or 1) if index in clocks else dts
                packet.pts = packet.dts + max(0, pts - dts)
                yield packet
        told = Fraction((source.start_time or 0) + (source.duration or 0), av.time_base)
        if source.format.name in _TELLS_LENGTH and told > end + _SLACK_SECONDS:
            self._film.is_cut_short = True


def _pictures(parts: Parts, count: int, tick: Fraction) -> Iterator[Any]:
    """The packets of all parts."""
    for number in range(count):
        pts, durations, sizes, are_keys, data = parts.read(
            number, "pts", "duration", "size", "is_key", "data"
        )
        ends = np.cumsum(sizes)
        for index, end in enumerate(ends):
            packet = av.Packet(data[end - sizes[index] : end].tobytes())
            packet.pts = packet.dts = int(pts[index])
            packet.duration, packet.time_base = int(durations[index]), tick
            packet.is_keyframe = bool(are_keys[index])
            yield packet
