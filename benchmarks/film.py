"""Frames a second of `drsformer derain clip.mp4`, and flicker.

    python -m benchmarks.film --frames 24

A photograph that stands still, and one that moves by a pixel a frame, each with rain that is
rendered anew for every frame. Flicker is the mean absolute difference, in levels of 255, between
frames that follow one another, moved back onto each other: of the clean ones it is 0. Beside the
network there is reading, decoding, colours and encoding.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks import records
from benchmarks.inputs import SEED
from drsformer_jax.data.images import read_rgb
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.data.synthetic.rain import LEVELS, add_rain, sample_rain
from drsformer_jax.film.encoding import Encoding
from drsformer_jax.film.restoring import FilmDerainer
from drsformer_jax.inference.derainer import Derainer

FPS = 30


def rainy_frames(args: argparse.Namespace, step: int) -> list[np.ndarray]:
    """uint8 `H W 3`; of a view that moves by `step` pixels to the right a frame."""
    height, width = args.size
    photograph = (
        read_rgb(args.photograph)
        if args.photograph
        else dict(embedded_photographs("test"))["astronaut"]
    )
    # Reflected where it is too small.
    missing = [
        max(0, needed - given)
        for needed, given in zip(
            (height, width + step * args.frames), photograph.shape[:2], strict=True
        )
    ]
    wide = np.pad(photograph, ((0, missing[0]), (0, missing[1]), (0, 0)), "symmetric")
    rng = np.random.default_rng(SEED)
    rain = sample_rain(args.level, rng)
    views = (wide[:height, step * i : step * i + width] for i in range(args.frames))
    return [add_rain(np.ascontiguousarray(view), rain, rng) for view in views]


def write(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", FPS, options={"crf": "8"})
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        output.mux(stream.encode(None))


def read(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def flicker(frames: list[np.ndarray], step: int) -> float:
    """See the top of this file."""
    width = frames[0].shape[1] - step
    return float(
        np.mean(
            [
                np.abs(after[:, :width].astype(float) - before[:, step:])
                for before, after in itertools.pairwise(frames)
            ]
        )
    )


def measure(derainer: Derainer, args: argparse.Namespace, step: int) -> dict[str, float]:
    """The figures of one film."""
    seconds: list[float] = []

    def restore(image: np.ndarray) -> np.ndarray:
        begun = time.perf_counter()
        restored = derainer(image)
        seconds.append(time.perf_counter() - begun)
        return restored

    frames = rainy_frames(args, step)
    derainer(frames[0])  # compiles
    with tempfile.TemporaryDirectory() as folder:
        source, written = Path(folder, "wet.mp4"), Path(folder, "dry.mp4")
        write(source, frames)
        before = read(source)
        begun = time.perf_counter()
        FilmDerainer(source, written, Encoding()).run(restore, {})
        whole = time.perf_counter() - begun
        after = read(written)
    return {
        "frames_per_second": args.frames / whole,
        "beside_the_network": 1 - sum(seconds) / whole,
        "flicker_rainy": flicker(before, step),
        "flicker_restored": flicker(after, step),
        "load": os.getloadavg()[0],
    }


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    derainer = Derainer.load(args.weights)
    films = {f"{step} pixels a frame": measure(derainer, args, step) for step in (0, 1)}
    header = ("camera", "frames/s", "beside the network", "flicker, rainy", "restored", "load")
    rows = [
        (
            name,
            f"{found['frames_per_second']:.2f}",
            f"{found['beside_the_network']:.1%}",
            f"{found['flicker_rainy']:.2f}",
            f"{found['flicker_restored']:.2f}",
            f"{found['load']:.1f}",
        )
        for name, found in films.items()
    ]
    print(records.table(header, rows))
    return {"benchmark": "film", "films": films}


def main() -> int:
    parser = records.parser("film", __doc__, network=False)
    add = parser.add_argument
    add("--weights", metavar="W", help="as of `drsformer derain`")
    add("--photograph", type=Path, metavar="FILE", help="None: one of scikit-image's")
    add("--size", type=records.image_size, nargs=2, default=(360, 640), help="height and width")
    add("--level", choices=LEVELS, default="medium", help="of the rain")
    add("--frames", type=records.positive, default=24, help="of each film")
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
