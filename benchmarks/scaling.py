"""Cost against image size, batch and tile, in seconds a megapixel, of ours and of PyTorch.

    python -m benchmarks.scaling --sizes 64 128 256 512 1024 --json scaling.json

Every point is a pair of fresh processes that run in turn: ours, and PyTorch in the variant that
was the best of its eager ones. Before, PyTorch's network has run in float64: ours must agree with
it, and how far PyTorch's variant is from it is told. Whole images whose forward would not fit in
this machine's memory by the estimate that `drsformer derain` uses are left out, and PyTorch where
twice that would not fit, in float64 four times: it takes 1.7 times as much (`benchmarks.memory`,
512x512). Tiles, of the largest image, are ours alone.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import records
from benchmarks.comparison import EXACT, OURS, exact_forward, forward_limit
from benchmarks.pairs import Spread, Worker, check, started, take_turns
from drsformer_jax.inference.memory import budget_bytes, forward_bytes
from drsformer_jax.models.config import PRESETS, DRSformerConfig

Point = dict[str, Any]

TORCH_MEMORY, FLOAT64_MEMORY = 2, 4  # times ours, rounded up


def measure_whole(args: argparse.Namespace, config: DRSformerConfig) -> list[Point]:
    """A point for each size, and for each batch of images of `--batch-size`."""
    from benchmarks import jax_programs, torch_programs

    asked = [(size, 1) for size in args.sizes]
    asked += [(args.batch_size, n) for n in args.batches if (args.batch_size, n) not in asked]
    points = []
    for size, batch in asked:
        needed, there = batch * forward_bytes(config, size, size), budget_bytes()
        what = f"{batch} x {size} x {size}"
        if needed > there:
            print(f"{what}: left out, would not fit in memory")
            continue
        settings: Any = {"config": config, "batch": batch, "size": size, "device": "cpu"}
        programs: dict[str, Any] = {OURS: (jax_programs.forward, {**settings, "cache": None})}
        exact = differences = None
        if FLOAT64_MEMORY * needed > there:
            print(f"{what}: not held against {EXACT}, which would not fit in memory")
        else:
            exact = exact_forward(**settings)
        if TORCH_MEMORY * needed > there:
            print(f"{what}: PyTorch left out, would not fit in memory")
        else:
            programs[args.variant] = (torch_programs.forward, {**settings, "variant": args.variant})
        with started(programs) as workers:
            take_turns(workers, 1)
            if exact is not None:
                differences = check(workers, exact, EXACT, {OURS: forward_limit(config, "cpu")})
            seconds = take_turns(workers, args.runs)
        points.append({**point(size, batch, None, seconds), "differences": differences})
        print(row(points[-1]), flush=True)
    return points


def measure_tiles(args: argparse.Namespace, config: DRSformerConfig) -> list[Point]:
    """A point for each side of a tile below that of the largest image."""
    from benchmarks import jax_programs

    size = max(args.sizes)
    points = []
    for tile in args.tiles:
        if tile < size:
            with Worker(jax_programs.derain, config=config, size=size, tile=tile) as ours:
                points.append(point(size, 1, tile, take_turns({OURS: ours}, args.runs)))
            print(row(points[-1]), flush=True)
    return points


def point(size: int, batch: int, tile: int | None, seconds: dict[str, list[float]]) -> Point:
    megapixels = batch * size * size / 1e6
    return {
        "size": size,
        "batch": batch,
        "tile": tile,
        "runs": seconds,
        "seconds_per_megapixel": {
            name: Spread.of(runs).median / megapixels for name, runs in seconds.items()
        },
    }


def row(point: Point) -> str:
    """A point as a line."""
    what = f"{point['batch']} x {point['size']} x {point['size']}"
    if point["tile"]:
        what += f" in tiles of {point['tile']}"
    costs = point["seconds_per_megapixel"]
    told = "  ".join(f"{name} {seconds:8.1f} s/MP" for name, seconds in costs.items())
    others = [seconds / costs[OURS] for name, seconds in costs.items() if name != OURS]
    line = f"{what:<32}{told}" + "".join(f"  {times:5.2f} times ours" for times in others)
    if differences := point.get("differences"):
        line += "  difference " + " and ".join(f"{value:.0e}" for value in differences.values())
    return line


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    config = PRESETS[args.preset]
    points = measure_whole(args, config) + measure_tiles(args, config)
    return {"benchmark": "scaling", "points": points}


def main() -> int:
    parser = records.parser("scaling", __doc__)
    add, sides, batches = parser.add_argument, [64, 128, 256, 512, 1024], [1, 2, 4, 8]
    add("--sizes", type=records.image_size, nargs="+", default=sides, help="of single images")
    add("--batches", type=records.positive, nargs="*", default=batches, help="images at once")
    add("--batch-size", type=records.image_size, default=128, help="of the images in batches")
    tiles = [128, 256, 512]
    add("--tiles", type=records.image_size, nargs="*", default=tiles, help="sides in pixels")
    variants = ("eager", "channels_last")
    add("--variant", choices=variants, default="channels_last", help="of PyTorch")
    add("--runs", type=records.positive, default=3, help="turns")
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
