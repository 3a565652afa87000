"""One training step in JAX and in PyTorch, in turn: time, peak memory, time to compile.

    python -m benchmarks.train_step --batch 1 --patch 128 --json train_step.json

Ours is the program that train.py runs with the options of configs/base.py: forward, L1 loss,
backward, clipping, AdamW. PyTorch's is the authors' loop. Same weights, same batch, one process a
program; loss and gradient norm of the first step must agree before anything is timed. Peak memory
is what the process held at most in its steps (on a GPU: of the GPU), after compilation; the floor
is three forwards at the rate of a matrix product, for each product has two gradients of its size.
`--device gpu` was not run as a command yet.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import comparison, plots, records
from drsformer_jax.training.cpu import prepare_cpu

# Of loss and gradient norm.
LIMITS = {"float32": 1e-3, "bfloat16": 0.1}
FORWARDS_IN_A_STEP = 3


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All programs."""
    from benchmarks import jax_programs, torch_programs
    from configs import base

    recipe = base.get_config()
    execution = {name: recipe.model[name] for name in ("unroll", "remat")}
    execution |= {name: given for name in execution if (given := getattr(args, name)) is not None}
    forward = torch_programs.forward_flops(args.preset, args.batch, args.patch)
    result = comparison.compare(
        jax_programs.training_step,
        torch_programs.training_step,
        {
            "config": jax_programs.network(
                args.preset, args.dtype, args.matmul_precision, **execution
            ),
            "recipe": recipe.optimizer.to_dict(),
            "batch": args.batch,
            "size": args.patch,
            "device": args.device,
        },
        variants=args.variants,
        flops=FORWARDS_IN_A_STEP * forward,
        limit=LIMITS[args.dtype],
        runs=args.runs,
    )
    return {**result, "execution": execution}


def plot(args: argparse.Namespace, result: dict[str, Any]) -> None:
    title = (
        f"Training step of {args.preset}, {args.dtype}, {args.batch} x {args.patch} x {args.patch}"
    )
    figure, (time, memory) = plots.axes(2, title)
    seconds, spreads = comparison.medians(result)
    plots.times(time, seconds, spreads, result["floor_seconds"])
    peaks = {name: found["peak_bytes"] / 1e9 for name, found in result["programs"].items()}
    plots.bars(memory, peaks, "peak memory in GB")
    plots.save(figure, args.json)


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    result = measure(args)
    print(comparison.text(result), flush=True)
    for name, found in result["programs"].items():
        print(
            f"{name}: {found['built_bytes'] / 1e9:.2f} GB with the state in memory, before a step"
        )
    plot(args, result)
    return {"benchmark": "train_step", **result}


def main() -> int:
    parser = records.parser("train_step", __doc__)
    parser.add_argument("--batch", type=records.positive, default=1, help="images a step")
    parser.add_argument(
        "--patch", type=records.image_size, default=128, help="pixels (default: %(default)s)"
    )
    for name in ("unroll", "remat"):
        parser.add_argument(
            f"--{name}",
            action=argparse.BooleanOptionalAction,
            help=f"config.model.{name} of ours; default: as in configs/base.py",
        )
    records.add_comparison(parser, comparison.PYTORCH_VARIANTS)
    args = parser.parse_args()
    if args.device == "cpu":
        prepare_cpu()  # as train.py does
    return records.run(benchmark, args)


if __name__ == "__main__":
    sys.exit(main())
