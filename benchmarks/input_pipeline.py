"""Images a second of the training input pipeline, against PyTorch's DataLoader and a training step.

    python -m benchmarks.input_pipeline --data DATA/rain100l/train --json input_pipeline.json

A pair of images counts as one. Where pairs come from: PNG files, decoded anew for every patch; ours
from ArrayRecord of the same files, or of samples (`drsformer data build --form raw`); and decoded
images that are kept in memory (`config.data.cache`), as from the second epoch on where they fit.
So many threads of ours stand against as many processes of PyTorch's (benchmarks/torch_loader.py).
Each program lives in a process of its own, and all of them run in turn. Without --data it makes PNG
files of the size of Rain100L's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.inputs import SEED
from benchmarks.pairs import Program, Spread, started, take_turns
from benchmarks.torch_loader import loader
from drsformer_jax.data.images import write_png
from drsformer_jax.data.pipeline import Stage, training_batches
from drsformer_jax.data.records import RecordedPairs
from drsformer_jax.data.sources import PairedFolder
from drsformer_jax.datasets.build import build
from drsformer_jax.errors import UserError

HEIGHT, WIDTH = 321, 481
PYTORCH = "PyTorch DataLoader, PNG"
# Ours: the form of the data, and whether decoded images are kept.
OURS = {
    "PNG": ("files", False),
    "ArrayRecord of PNG": ("encoded", False),
    "ArrayRecord of samples": ("raw", False),
    "kept in memory": ("files", True),
}


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
    folder: str, *, form: str, cache: bool, threads: int, batch: int, patch: int, batches: int
) -> Program:
    """Takes `batches` batches from a new pipeline; called in a process of its own."""
    # With `cache`, verifying has read every file already.
    source: Any = (
        PairedFolder(folder, verify=cache, cache=cache)
        if form == "files"
        else RecordedPairs(folder, "train", cache=cache)
    )

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


def measure(args: argparse.Namespace, folders: dict[str, str], threads: int) -> dict[str, Any]:
    """Images a second of each program, with so many threads or processes."""
    images = args.batch * args.batches
    settings = {"batch": args.batch, "patch": args.patch, "batches": args.batches}
    theirs = {"folder": folders["files"], "workers": threads, **settings}
    programs: dict[str, Any] = {PYTORCH: (loader, theirs)}
    for name, (form, cache) in OURS.items():
        ours = {"folder": folders[form], "form": form, "cache": cache, "threads": threads}
        programs[name] = (pipeline, {**ours, **settings})
    with started(programs) as workers:
        take_turns(workers, 1)
        seconds = take_turns(workers, args.runs)
    rates = {name: [images / one for one in found] for name, found in seconds.items()}
    return {"threads": threads, "images_per_second": rates}


def prepare(args: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """The pairs as files, and as ArrayRecord in both forms: a folder each."""
    train = scratch / "unpacked" / "train"
    train.parent.mkdir()
    if args.data is None:
        train.mkdir()
        write_pairs(train, args.pairs)
    else:
        train.symlink_to(args.data.absolute(), target_is_directory=True)
    folders = {"files": str(train)}
    for form in ("encoded", "raw"):
        # Whatever they are: a name is needed.
        written = build("rain200h", train.parent, scratch / "sets", form=form, partial=True)
        folders[form] = str(written)
    return folders


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    steps = consumed(args.train_step)
    points, rows = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folders = prepare(args, Path(scratch))
        sizes = {
            form: sum(path.stat().st_size for path in Path(folder).rglob("*.*") if path.is_file())
            for form, folder in folders.items()
        }
        for threads in sorted(args.threads):
            points.append(measure(args, folders, threads))
            rates = points[-1]["images_per_second"]
            for name, found in rates.items():
                turns = zip(found, rates[PYTORCH], strict=True)
                ratio = Spread.of(ours / theirs for ours, theirs in turns)
                rows.append((name, str(threads), str(Spread.of(found)), str(ratio)))
    print(records.table(("pairs from", "threads", "images/s", "times PyTorch"), rows))
    print(", ".join(f"{form}: {size / 1e6:.1f} MB" for form, size in sizes.items()))
    for name, rate in steps.items():
        print(f"a training step ({name}) consumes {rate:.3g} images/s")
    return {"benchmark": "input_pipeline", "points": points, "bytes": sizes, "consumed": steps}


def main() -> int:
    parser = records.parser("input_pipeline", __doc__, network=False)
    add, counts = parser.add_argument, sorted({1, os.cpu_count() or 1})
    each = "config.data.threads, num_workers"
    add("--threads", type=records.positive, nargs="+", default=counts, help=each)
    add("--data", type=Path, metavar="FOLDER", help="with input/ and target/: PNG files")
    add("--pairs", type=records.positive, default=50, help="that are made without --data")
    add("--batch", type=records.positive, default=16, help="patches at once")
    add("--patch", type=records.positive, default=128, help="pixels")
    add("--batches", type=records.positive, default=32, help="of one run")
    add("--runs", type=records.positive, default=3, help="turns")
    add("--train-step", type=Path, metavar="FILE", help="what benchmarks.train_step wrote")
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
