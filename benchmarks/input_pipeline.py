"""Images a second of the training input pipeline, against what a training step consumes.

    python -m benchmarks.input_pipeline --train-step train_step.json --json input_pipeline.json

The pairs are PNG files that it makes, of the size of Rain100L's. Every number of threads gets a
fresh process, once with images decoded anew for every patch and once with decoded images kept
(`config.data.cache`), as they are from the second epoch on where they fit. With 0 threads the
training loop decodes by itself. PyTorch has no part in it: the authors' loader is not in the tree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots, records
from benchmarks.inputs import SEED
from benchmarks.pairs import Program, Spread, Worker
from drsformer_jax.data.images import write_png
from drsformer_jax.data.pipeline import Stage, training_batches
from drsformer_jax.data.sources import PairedFolder
from drsformer_jax.errors import UserError

HEIGHT, WIDTH = 321, 481
ANEW, CACHED = "decoded anew", "kept in memory"


def write_pairs(folder: Path, count: int) -> None:
    """Smooth pictures with some noise, which PNG packs about as well as photographs."""
    rng = np.random.default_rng(SEED)
    row, column = np.mgrid[:HEIGHT, :WIDTH][..., None] / WIDTH
    for side in ("input", "target"):
        (folder / side).mkdir()
    for i in range(count):
        waves = np.sin(2 * np.pi * (rng.uniform(1, 5, 3) * row + rng.uniform(1, 5, 3) * column))
        for side, noise in (("target", 4), ("input", 12)):
            picture = 128 + 90 * waves + noise * rng.standard_normal(waves.shape)
            write_png(folder / side / f"{i:03}.png", np.clip(picture, 0, 255).astype(np.uint8))


def pipeline(
    folder: str, *, threads: int, cache: bool, batch: int, patch: int, batches: int
) -> Program:
    """Takes `batches` batches from a new pipeline; called in a process of its own."""
    # With `cache`, verifying has read every file already.
    source = PairedFolder(folder, verify=cache, cache=cache)

    def run() -> float:
        iterator: Any = training_batches(
            source, seed=SEED, stages=[Stage(None, batch, patch)], num_threads=threads
        )
        # The clock starts, as it stops, when all threads are in the middle of a batch.
        for _ in range(threads + 1):
            next(iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        seconds = time.perf_counter() - start
        iterator.close()
        return seconds

    return Program(run)


def consumed(path: Path | None) -> dict[str, float]:
    """Images a second of our training step, from the file of benchmarks.train_step."""
    if path is None:
        return {}
    try:
        record = json.loads(path.read_text())
        seconds = record["programs"]["ours"]["seconds"]["median"]
        return {f"batch {record['batch']}, {record['size']} pixels": record["batch"] / seconds}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--train-step {path}: is not a file of benchmarks.train_step "
            f"({type(error).__name__}: {error})"
        ) from error


def measure(args: argparse.Namespace, folder: str, threads: int) -> dict[str, Any]:
    """Images a second with so many threads, either way."""
    images = args.batch * args.batches
    settings = {"batch": args.batch, "patch": args.patch, "batches": args.batches}
    rates = {}
    for name, cache in ((ANEW, False), (CACHED, True)):
        with Worker(pipeline, folder=folder, threads=threads, cache=cache, **settings) as worker:
            worker.run()
            rates[name] = [images / worker.run() for _ in range(args.runs)]
    return {"threads": threads, "images_per_second": rates}


def plot(args: argparse.Namespace, points: list[dict[str, Any]], steps: dict[str, float]) -> None:
    series = {
        name: [(p["threads"], Spread.of(p["images_per_second"][name]).median) for p in points]
        for name in (ANEW, CACHED)
    }
    figure, (axis,) = plots.axes(1, f"Input pipeline: batches of {args.batch}, {args.patch} pixels")
    for name, rate in steps.items():
        axis.axhline(rate, color="black", linestyle=":", label=f"training step: {name}")
    plots.curves(axis, series, xlabel="threads", ylabel="images a second", yscale="log")
    plots.save(figure, args.json)


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    steps = consumed(args.train_step)
    points = []
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), args.pairs)
        for threads in sorted(args.threads):
            points.append(measure(args, folder, threads))
    rows = [
        (str(p["threads"]), *(str(Spread.of(rate)) for rate in p["images_per_second"].values()))
        for p in points
    ]
    print(records.table(("threads", f"{ANEW}, images/s", f"{CACHED}, images/s"), rows))
    for name, rate in steps.items():
        print(f"a training step ({name}) consumes {rate:.3g} images/s")
    plot(args, points, steps)
    return {"benchmark": "input_pipeline", "points": points, "consumed": steps}


def main() -> int:
    parser = records.parser("input_pipeline", __doc__, network=False)
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[0, 1, 2, 4, 8],
        help="config.data.threads (default: %(default)s)",
    )
    parser.add_argument("--pairs", type=records.positive, default=50, help="default: %(default)s")
    parser.add_argument("--batch", type=records.positive, default=16, help="default: %(default)s")
    parser.add_argument("--patch", type=records.positive, default=128, help="default: %(default)s")
    parser.add_argument(
        "--batches", type=records.positive, default=32, help="of one run (default: %(default)s)"
    )
    parser.add_argument("--runs", type=records.positive, default=3, help="default: %(default)s")
    parser.add_argument(
        "--train-step", type=Path, metavar="FILE", help="what benchmarks.train_step wrote"
    )
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
