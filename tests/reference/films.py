"""Films that tests can afford: a second or less, of 32x24 pixels, made and read back by PyAV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from drsformer_jax.film.encoding import Encoding
from drsformer_jax.film.restoring import FilmDerainer, Outcome

FPS = 25
FINE = Encoding(crf=1)


def scene(index: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth colours that move: uint8 `H W 3`."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin((rows + index) / 9), np.cos((columns - index) / 12), np.sin(rows / 15)]
    return np.uint8(np.rint(120 + 70 * np.stack(waves, -1)))


def write_film(
    path: Path,
    *,
    frames: int = 12,
    size: tuple[int, int] = (24, 32),
    times: list[int] | None = None,
    tick: Fraction = Fraction(1, 12800),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    tags: tuple[int, int, int, int] = (6, 1, 6, 6),
    rotation: float | None = None,
    aspect: Fraction | None = None,
    sound: str | None = "aac",
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A film of `scene`.

    Args:
      times: of the frames, in ticks; None: 25 a second.
      tags: matrix, range, primaries and transfer, numbers of H.273.
      options: of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix, span, primaries, transfer = tags
    step = round(1 / (FPS * tick))
    times = [step * i for i in range(frames)] if times is None else times
    with av.open(str(path), "w", container_options=options or {}) as output:
        stream = output.add_stream(codec, FPS, options={"crf": "1"})
        stream.height, stream.width = size
        stream.pix_fmt, stream.time_base = pixels, tick
        context: Any = stream.codec_context
        context.time_base = tick
        context.colorspace, context.color_range = matrix, span
        context.color_primaries, context.color_trc = primaries, transfer
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        voice = output.add_stream(sound, 44100) if sound else None
        output.metadata.update(metadata or {"title": "Straße im Regen"})
        if not path.suffix.endswith("ts"):
            second = {"time_base": Fraction(1, 1000), "metadata": {"title": "one"}}
            output.set_chapters([{"id": 1, "start": 0, "end": 200, **second}])
        for index, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(index, *size)).reformat(
                format=pixels,
                dst_colorspace={6: 5}.get(matrix, matrix),
                dst_color_range=span,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            )
            frame.pts, frame.time_base = pts, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if voice is not None:
            for index in range(1 + int(44.1 * 1000 * times[-1] * tick) // 1024):
                wave = np.sin(np.arange(index * 1024, (index + 1) * 1024) / 20)
                heard = av.AudioFrame.from_ndarray(
                    np.float32([wave, wave]) / 4, format="fltp", layout="stereo"
                )
                heard.sample_rate, heard.pts = 44100, index * 1024
                output.mux(voice.encode(heard))
            output.mux(voice.encode(None))
    return path


@dataclass
class Seen:
    """What a film holds; packets of what is no picture as (stream's kind, time in s, bytes)."""

    frames: list[Any]
    times: list[Fraction]
    others: list[tuple[str, Fraction, bytes]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: int = 0
    aspect: Fraction | None = None

    @property
    def tags(self) -> tuple[int, int, int, int]:
        frame = self.frames[0]
        return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc

    @property
    def size(self) -> tuple[int, int]:
        return self.frames[0].height, self.frames[0].width

    def planes(self) -> np.ndarray:
        """Luma and chroma of all frames, at full resolution: float64 `T 3 H W`."""
        return np.float64([frame.to_ndarray(format="yuv444p") for frame in self.frames])


def see(path: Path) -> Seen:
    """Reads a whole film."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seen = Seen([], [], metadata=dict(container.metadata))
        seen.chapters, seen.aspect = len(container.chapters()), stream.sample_aspect_ratio
        for packet in container.demux():
            if packet.stream is stream:
                seen.frames += packet.decode()
            elif packet.size and packet.stream.type in ("audio", "subtitle"):
                at = packet.pts * packet.time_base
                seen.others.append((packet.stream.type, at, bytes(packet)))
    seen.times = [frame.pts * frame.time_base for frame in seen.frames]
    return seen


def same(image: np.ndarray) -> np.ndarray:
    return image


def derain(
    source: Path,
    destination: Path | None = None,
    restore: Callable[[np.ndarray], np.ndarray] = same,
    encoding: Encoding = FINE,
    **kwargs: Any,
) -> tuple[Path, Outcome]:
    """Restores a film by a function that stands for the network; what was written, and how."""
    destination = destination or source.with_name(f"dry{source.suffix}")
    film = FilmDerainer(source, destination, encoding)
    return destination, film.run(restore, {"weights": "1"}, **kwargs)
