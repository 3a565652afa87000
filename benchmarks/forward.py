"""The forward of one network in JAX and in PyTorch, in turn, against the matrix-product floor.

    python -m benchmarks.forward --sizes 128 256 --json forward.json

Same weights, same images, one process a program. Before anything is timed, ours must agree with
PyTorch's network in float64; how far the others are from it is told.
The floor is what the network's multiply-adds would take at the rate of one large matrix product,
measured in the same turns. torch.compile takes minutes and is measured when asked for:
`--variants eager channels_last compile`. `--device gpu` was not run as a command yet.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import comparison, records
from benchmarks.comparison import exact_forward


def measure(args: argparse.Namespace, size: int) -> dict[str, Any]:
    """All programs at one size."""
    from benchmarks import jax_programs, torch_programs

    settings = {
        "config": jax_programs.network(args.preset, args.dtype, args.matmul_precision),
        "batch": args.batch,
        "size": size,
        "device": args.device,
    }
    return comparison.compare(
        jax_programs.forward,
        torch_programs.forward,
        settings,
        variants=args.variants,
        flops=torch_programs.forward_flops(args.preset, args.batch, size),
        limit=comparison.forward_limit(settings["config"], args.device),
        runs=args.runs,
        exact=exact_forward(**settings),
    )


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    results = []
    for size in args.sizes:
        results.append(measure(args, size))
        print(comparison.text(results[-1]), flush=True)
    return {"benchmark": "forward", "results": results}


def main() -> int:
    parser = records.parser("forward", __doc__)
    add, sides = parser.add_argument, "of the images, in pixels"
    add("--sizes", type=records.image_size, nargs="+", default=[128, 256], help=sides)
    add("--batch", type=records.positive, default=1, help="images at once")
    records.add_comparison(parser, comparison.PYTORCH_VARIANTS)
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
