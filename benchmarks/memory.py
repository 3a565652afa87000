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

from benchmarks import records
from benchmarks.pairs import Worker
from drsformer_jax.inference.memory import budget_bytes, forward_bytes
from drsformer_jax.models.config import PRESETS

WHOLE, TILES = "ours", "ours, tiles"


def measure(args: argparse.Namespace, size: int) -> dict[str, Any]:
    """Peak bytes by program for one size of image."""
    from benchmarks import jax_programs, torch_programs

    config = PRESETS[args.preset]
    whole = {"config": config, "size": size, "tile": 0}
    programs: dict[str, Any] = {TILES: (jax_programs.derain, {**whole, "tile": args.tile})}
    if forward_bytes(config, size, size) <= budget_bytes():
        programs[WHOLE] = (jax_programs.derain, whole)
        for variant in args.variants:
            settings = {"config": config, "batch": 1, "size": size, "device": "cpu"}
            programs[variant] = (torch_programs.forward, {**settings, "variant": variant})
    found = {}
    for name, (build, settings) in programs.items():
        with Worker(build, **settings) as worker:
            found[name] = {
                "seconds": worker.run(),
                "peak_bytes": worker.peak_bytes(),
                **{key: worker.facts[key] for key in ("built_bytes", "build_peak_bytes")},
            }
    return {"size": size, "programs": found}


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


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    points = []
    for size in sorted(args.sizes):
        print(f"{size} x {size} ...", file=sys.stderr, flush=True)
        points.append(measure(args, size))
    print(table(args, points))
    return {"benchmark": "memory", "points": points}


def main() -> int:
    parser = records.parser("memory", __doc__)
    add, sides = parser.add_argument, [128, 256, 512, 1024]
    add("--sizes", type=records.image_size, nargs="+", default=sides, help="of the images")
    add("--tile", type=records.image_size, default=256, help="in pixels")
    variants = ("eager", "channels_last")
    add("--variants", nargs="*", choices=variants, default=["eager"], help="of PyTorch")
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
