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

from benchmarks import comparison, records
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


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    result = measure(args)
    print(comparison.text(result), flush=True)
    for name, found in result["programs"].items():
        print(
            f"{name}: {found['built_bytes'] / 1e9:.2f} GB with the state in memory, before a step"
        )
    return {"benchmark": "train_step", **result}


def main() -> int:
    parser = records.parser("train_step", __doc__)
    add = parser.add_argument
    add("--batch", type=records.positive, default=1, help="images a step")
    add("--patch", type=records.image_size, default=128, help="pixels")
    for name in ("unroll", "remat"):
        told = f"config.model.{name} of ours; None: as in configs/base.py"
        add(f"--{name}", action=argparse.BooleanOptionalAction, help=told)
    records.add_comparison(parser, comparison.PYTORCH_VARIANTS)
    args = parser.parse_args()
    if args.device == "cpu":
        prepare_cpu()  # as train.py does
    return records.run(benchmark, args)


if __name__ == "__main__":
    sys.exit(main())
