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
import contextlib
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks import plots, records
from benchmarks.comparison import EXACT, OURS, exact_forward, forward_limit
from benchmarks.pairs import Spread, Worker, check, take_turns, warm_up
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
        settings: dict[str, Any] = {
            "config": config,
            "batch": batch,
            "size": size,
            "device": "cpu",
        }
        exact = None
        if FLOAT64_MEMORY * needed > there:
            print(f"{what}: not held against {EXACT}, which would not fit in memory")
        else:
            exact = exact_forward(**settings)
        with contextlib.ExitStack() as processes:
            ours = Worker(jax_programs.forward, **settings, cache=None)
            workers = {OURS: processes.enter_context(ours)}
            if TORCH_MEMORY * needed > there:
                print(f"{what}: PyTorch left out, would not fit in memory")
            else:
                theirs = Worker(torch_programs.forward, **settings, variant=args.variant)
                workers[args.variant] = processes.enter_context(theirs)
            warm_up(workers)
            differences = None
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
        if tile >= size:
            continue
        with Worker(jax_programs.derain, config=config, size=size, tile=tile) as ours:
            seconds = take_turns({OURS: ours}, args.runs)
        points.append(point(size, 1, tile, seconds))
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


def series(points: Iterable[Point], key: str) -> dict[str, list[tuple[float, float]]]:
    """Seconds a megapixel by program, over the sorted values of `key`."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in sorted(points, key=lambda p: p[key]):
        for name, cost in one["seconds_per_megapixel"].items():
            found.setdefault(name, []).append((one[key], cost))
    return found


def plot(args: argparse.Namespace, points: list[Point]) -> None:
    whole = [p for p in points if p["tile"] is None]
    largest, side = max(args.sizes), args.batch_size
    # The whole image as one tile, beside the smaller ones.
    tiles = [p for p in points if p["tile"]]
    tiles += [{**p, "tile": largest} for p in whole if (p["size"], p["batch"]) == (largest, 1)]
    single = [p for p in whole if p["batch"] == 1]
    batched = [p for p in whole if p["size"] == side]
    panels = (
        ("size", "image side in pixels", single, "one image"),
        ("batch", "images at once", batched, f"batches of {side} x {side}"),
        ("tile", "side of the tiles in pixels", tiles, f"{largest} x {largest} in tiles"),
    )
    figure, axes = plots.axes(3, f"Forward of {args.preset}, float32: cost against size")
    for axis, (key, xlabel, chosen, title) in zip(axes, panels, strict=True):
        if not chosen:
            axis.set_visible(False)
            continue
        labels = {"xlabel": xlabel, "ylabel": "seconds a megapixel", "title": title}
        plots.curves(axis, series(chosen, key), **labels)
        plots.powers_of_two(axis, [p[key] for p in chosen])
    plots.save(figure, args.json)


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    config = PRESETS[args.preset]
    points = measure_whole(args, config) + measure_tiles(args, config)
    plot(args, points)
    return {"benchmark": "scaling", "points": points}


def main() -> int:
    parser = records.parser("scaling", __doc__)
    parser.add_argument(
        "--sizes",
        type=records.image_size,
        nargs="+",
        default=[64, 128, 256, 512, 1024],
        help="of single images (default: %(default)s)",
    )
    parser.add_argument(
        "--batches",
        type=records.positive,
        nargs="*",
        default=[1, 2, 4, 8],
        help="default: %(default)s",
    )
    parser.add_argument(
        "--batch-size",
        type=records.image_size,
        default=128,
        help="of the images in batches (default: %(default)s)",
    )
    parser.add_argument(
        "--tiles",
        type=records.image_size,
        nargs="*",
        default=[128, 256, 512],
        help="default: %(default)s",
    )
    parser.add_argument(
        "--variant",
        choices=("eager", "channels_last"),
        default="channels_last",
        help="of PyTorch (default: %(default)s)",
    )
    parser.add_argument("--runs", type=records.positive, default=3, help="turns (default: 3)")
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
