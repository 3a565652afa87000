"""Peak memory of inference as the image grows: whole and in tiles, ours and PyTorch's.

    python -m benchmarks.memory --sizes 128 256 512 1024 --tile 256 --json memory.json

Every point is a fresh process. The peak is of resident memory, all told, in a second run: the
first one compiles, and the most that was resident until then is the figure in brackets. Whole
images are left out where they would not fit by the estimate that `drsformer derain` uses. Linux
only.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import plots, records
from benchmarks.pairs import Worker
from drsformer_jax.inference.memory import budget_bytes, forward_bytes
from drsformer_jax.models.config import PRESETS

WHOLE, TILES = "ours", "ours, tiles"


def measure(args: argparse.Namespace, size: int) -> dict[str, Any]:
    """Peak bytes by program for one size of image."""
    from benchmarks import jax_programs, torch_programs

    config = PRESETS[args.preset]
    found: dict[str, Any] = {"size": size, "programs": {}}

    def add(name: str, worker: Worker) -> None:
        with worker:
            seconds = worker.run()
            found["programs"][name] = {
                "peak_bytes": worker.peak_bytes(),
                "built_bytes": worker.facts["built_bytes"],
                "build_peak_bytes": worker.facts["build_peak_bytes"],
                "seconds": seconds,
            }

    add(TILES, Worker(jax_programs.derain, config=config, size=size, tile=args.tile))
    if forward_bytes(config, size, size) <= budget_bytes():
        add(WHOLE, Worker(jax_programs.derain, config=config, size=size, tile=0))
        for variant in args.variants:
            settings: dict[str, Any] = {"config": config, "batch": 1, "size": size, "device": "cpu"}
            add(variant, Worker(torch_programs.forward, **settings, variant=variant))
    return found


def table(args: argparse.Namespace, points: list[dict[str, Any]]) -> str:
    def cell(found: dict[str, Any] | None) -> str:
        if found is None:
            return "-"
        return f"{found['peak_bytes'] / 1e9:.2f} ({found['build_peak_bytes'] / 1e9:.2f})"

    names = (TILES, WHOLE, *args.variants)
    rows = [
        (
            f"{point['size']} x {point['size']}",
            *(cell(point["programs"].get(name)) for name in names),
        )
        for point in points
    ]
    header = ("peak GB (while built)", f"tiles of {args.tile}", "ours, whole", *args.variants)
    return records.table(header, rows)


def plot(args: argparse.Namespace, points: list[dict[str, Any]]) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        for name, found in point["programs"].items():
            pixels = point["size"] ** 2 / 1e6
            series.setdefault(name, []).append((pixels, found["peak_bytes"] / 1e9))
    figure, (axis,) = plots.axes(1, f"Peak memory of inference, {args.preset}, float32")
    plots.curves(
        axis,
        series,
        xlabel="megapixels",
        ylabel="GB",
        title=f"tiles of {args.tile} x {args.tile}, else the whole image",
    )
    plots.save(figure, args.json)


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    points = []
    for size in sorted(args.sizes):
        print(f"{size} x {size} ...", file=sys.stderr, flush=True)
        points.append(measure(args, size))
    print(table(args, points))
    plot(args, points)
    return {"benchmark": "memory", "points": points}


def main() -> int:
    parser = records.parser("memory", __doc__)
    parser.add_argument(
        "--sizes",
        type=records.image_size,
        nargs="+",
        default=[128, 256, 512, 1024],
        help="of the images (default: %(default)s)",
    )
    parser.add_argument(
        "--tile", type=records.image_size, default=256, help="in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=("eager", "channels_last"),
        default=["eager"],
        help="of PyTorch (default: %(default)s)",
    )
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
