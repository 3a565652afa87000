"""Trains the same network in PyTorch and in JAX and shows how far apart they are at every step.

    python tools/training_parity.py                       float64: within 1e-9
    python tools/training_parity.py --mefc                with the feature compensators
    python tools/training_parity.py --dtype float32       measured against PyTorch's float64 run
    python tools/training_parity.py --json training.json

One PyTorch initialisation and one list of batches (synthetic rain, from a seed) go through the
authors' recipe in both: AdamW, clipping at 0.01, L1, and their schedule, shortened so that the run
passes through all of it. JAX runs the program that train.py runs.

Columns: the loss, the gradient's norm before clipping and the learning rate in PyTorch; how far JAX
is from each, relative; and of the parameters after the step the largest difference of an element,
the largest relative L2 difference of a tensor, and the largest root mean square difference of a
tensor divided by the sum of the learning rates so far, about the way that AdamW can have moved it.
In float32 the last is also shown for PyTorch, JAX, and PyTorch with the decisions (top-k choices,
signs in front of ReLUs) of its float64 run, each compared with that float64 run.

Exit code 0: within tolerance; 1: not; 2: it could not be compared. docs/parity.md explains.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_json
from drsformer_jax.models.config import PRESETS

EXIT_BEYOND = 1
EXIT_USAGE = 2
ROWS = 50  # of a long run only so many are printed, and the last


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="tiny", help="the network")
    parser.add_argument(
        "--mefc",
        action=argparse.BooleanOptionalAction,
        help="with or without feature compensators; default: as in the preset",
    )
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--size", type=int, default=32, help="pixels, a multiple of 8")
    parser.add_argument("--warmup", type=int, default=0, help="steps of linear warm-up")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="float64: largest relative difference, default 1e-9; float32: how many times as far "
        "from the float64 run as PyTorch's JAX's float32 run may be, default 10",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises the UserError for values that cannot be."""
    from drsformer_jax.parity.trajectory_report import FLOAT32_STEPS

    for name in ("steps", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    for name in ("warmup", "seed"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: must not be negative")
    if args.size < 8 or args.size % 8:
        raise UserError(f"--size {args.size}: must be a multiple of 8")
    if args.dtype == "float32" and args.steps < FLOAT32_STEPS:
        raise UserError(
            f"--steps {args.steps}: in float32 chance decides the first {FLOAT32_STEPS} steps "
            "(docs/parity.md): take more, or --dtype float64"
        )
    if args.tolerance is not None and not args.tolerance > 0:
        raise UserError(f"--tolerance {args.tolerance}: must be positive")
    check_destination("--json", args.json)


def compare(args: argparse.Namespace) -> int:
    """Runs the comparison, printing each step as it is done; returns the exit code."""
    check(args)
    import jax

    from drsformer_jax.parity.trajectory import rainy_batches, shortened_recipe, train_both
    from drsformer_jax.parity.trajectory_report import (
        TOLERANCES,
        TrainingReport,
        table_header,
        table_row,
    )

    if args.batch % jax.device_count():
        raise UserError(
            f"--batch {args.batch} does not divide over {jax.device_count()} devices: choose a "
            f"multiple of {jax.device_count()}"
        )
    config = PRESETS[args.preset]
    if args.mefc is not None:
        config = dataclasses.replace(config, use_mefc=args.mefc)
    options = shortened_recipe(args.steps, args.warmup)
    settings = {
        "network": config.architecture(),
        "recipe": dataclasses.asdict(options),
        "dtype": args.dtype,
        "batch": [args.batch, args.size, args.size, 3],
        "seed": args.seed,
        "device": jax.devices()[0].device_kind,
    }
    print("\n".join(f"{name:<8}  {value}" for name, value in settings.items()), end="\n\n")
    print(table_header(args.dtype), flush=True)
    batches = rainy_batches(args.steps, args.batch, args.size, args.seed)
    steps = []
    for step in train_both(config, options, batches, args.dtype, args.seed):
        steps.append(step)
        if step.step % -(-args.steps // ROWS) == 0 or step.step in (1, args.steps):
            print(table_row(step), flush=True)
    tolerance = args.tolerance or TOLERANCES[args.dtype]
    report = TrainingReport(settings, args.dtype, tolerance, steps)
    write_report("--json", args.json, lambda path: write_json(path, report.to_json()))
    print(f"\n{report.verdict()}")
    return 0 if report.passed else EXIT_BEYOND


def main() -> int:
    args = parse_arguments()
    try:
        return compare(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
