"""How restored frames are encoded, and that they can be."""

from __future__ import annotations

import dataclasses
from typing import Any

import av
from av.codec.context import Flags

from drsformer_jax.errors import UserError
from drsformer_jax.film.source import Look

DEFAULT_CODEC = "libx264"
DEFAULT_CRF = 18

# Of encoders by name. With its tree of macroblocks, x264 reads memory that nobody has written, and
# what it makes of the same frames is not the same twice: a resumed film would be another.
_OPTIONS = {"libx264": {"mbtree": "0"}, "libx265": {"x265-params": "log-level=error"}}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """An encoder of one film.

    Attributes:
      codec: FFmpeg's name of the encoder.
      crf: its constant rate factor; None: 18 where it has one.
    """

    codec: str = DEFAULT_CODEC
    crf: int | None = None

    def encoder(self) -> Any:
        """PyAV's description of it. UserError: there is none of that name."""
        try:
            codec = av.codec.Codec(self.codec, "w")
            if codec.type != "video":
                raise ValueError("no codec of moving pictures")
        except ValueError as error:
            raise UserError(
                f"--codec {self.codec}: there is no such encoder here (libx264, libx265, "
                "libvpx-vp9 and libsvtav1 are in PyAV's wheels)"
            ) from error
        return codec

    def context(self, look: Look, *, flags: int = 0) -> Any:
        """An encoder that is open, for one part or, if nothing is encoded, to learn from.

        Raises:
          UserError: there is no such encoder, or it does not take the film.
        """
        codec = self.encoder()
        width, height = look.size_upright
        # H.264 and H.265 have even sides in 4:2:0; others take any.
        for even in (0, 1):
            context: Any = av.CodecContext.create(codec, "w")
            formats = [one.name for one in codec.video_formats or ()]
            context.pix_fmt = formats[0] if formats and "yuv420p" not in formats else "yuv420p"
            context.width, context.height = width + even * (width % 2), height + even * (height % 2)
            self._configure(context, look)
            context.flags |= flags
            try:
                context.open()
                break
            except (av.error.FFmpegError, ValueError) as error:
                refused = error
        else:
            raise UserError(
                f"--codec {self.codec}: the encoder refuses {width} x {height} pixels, times of "
                f"{look.time_base} s or --crf ({getattr(refused, 'strerror', refused)}): name "
                "another"
            ) from refused
        # What is left of them is what the encoder did not know.
        if self.crf is not None and "crf" in context.options:
            raise UserError(f"--crf {self.crf}: {self.codec} has none; leave it away")
        return context

    def stream(self, output: Any, look: Look) -> Any:
        """A stream of an output for what such an encoder makes of the film."""
        like = self.context(look)
        stream = output.add_stream(self.codec, look.rate)
        stream.time_base = look.time_base
        stream.width, stream.height, stream.pix_fmt = like.width, like.height, like.pix_fmt
        self._configure(stream.codec_context, look)
        return stream

    def _configure(self, context: Any, look: Look) -> None:
        """Says to an encoder what the film is like and how good it is to be."""
        context.time_base, context.framerate = look.time_base, look.rate
        context.colorspace, context.color_range = look.colorspace, look.color_range
        context.color_primaries, context.color_trc = look.color_primaries, look.color_trc
        if look.aspect:
            context.sample_aspect_ratio = 1 / look.aspect if look.is_on_its_side else look.aspect
        context.flags |= Flags.frame_duration
        # So that parts can follow one another as they are.
        context.max_b_frames = 0
        context.options = {
            "crf": str(DEFAULT_CRF if self.crf is None else self.crf),
            **_OPTIONS.get(context.codec.name, {}),
        }
