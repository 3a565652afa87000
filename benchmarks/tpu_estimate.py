"""What the network costs on a TPU, as XLA's TPU compiler estimates it; no TPU is needed.

    pip install 'drsformer_jax[tpu]'
    python -m benchmarks.tpu_estimate --json tpu_estimate.json

Forward pass on one chip and training step on a data mesh, compiled ahead of time: milliseconds by
the compiler's own `estimated_cycles`, device memory, communication between chips; and where the
milliseconds go, by kind of module. All of it is an estimate: nothing here has run on a TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS
from drsformer_jax.planning.ahead_of_time import (
    Program,
    compile_forward,
    compile_training,
    tpu_mesh,
)
from drsformer_jax.planning.chips import chip_of

KINDS = {
    "MEFC": r"encoder_level0|refinement",
    "MSFN": r"\bffn\b",
    "TKSA": r"\battn\b",
    "LayerNorm": r"\bnorm[12]\b",
    "between levels": r"\b(down|up)\d_\d\b|reduce_chan|patch_embed|output",
}
PACKAGES = ("jax", "jaxlib", "libtpu")


def by_kind(program: Program, clock: float) -> dict[str, float]:
    """Estimated milliseconds by kind of module, the rest (copies, optimiser) last."""
    found: dict[str, float] = defaultdict(float)
    for operation in program.operations:
        kinds = (kind for kind, name in KINDS.items() if re.search(name, operation.source))
        found[next(kinds, "other")] += operation.total_cycles / clock * 1e3
    return {kind: found[kind] for kind in (*KINDS, "other")}


def measure(args: argparse.Namespace, task: str, dtype: str) -> dict[str, Any]:
    """Compiles one program and returns its line of the table."""
    config = dataclasses.replace(PRESETS[args.preset], dtype=dtype, platform="tpu", unroll=False)
    topology = args.topology
    clock = chip_of(topology).clock_hz
    if task == "forward":
        program = compile_forward(config, tpu_mesh(topology, chips=1), args.batch, args.size)
    else:
        mesh = tpu_mesh(topology)
        program = compile_training(config, mesh, args.batch * mesh.size, args.size)
    return {
        "task": task,
        "dtype": dtype,
        "estimated_megacycles": program.cycles / 1e6,
        "estimated_ms": program.cycles / clock * 1e3,
        "memory_gb": program.memory_bytes / 1e9,
        "scratch_gb": program.scratch_bytes / 1e9,
        "gflop": program.flops / 1e9,
        "accessed_gb": program.bytes_accessed / 1e9,
        "collectives": {
            kind: {"count": count, "mb": size / 1e6}
            for kind, (count, size) in program.collectives.items()
        },
        "compile_seconds": program.compile_seconds,
        "by_kind_ms": by_kind(program, clock),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    numbers = ("Mcycles", "est. ms", "GB/chip", "GFLOP", "GB moved", "compile s")
    print(f"{'task':<10}{'dtype':<10}" + "".join(f"{name:>10}" for name in numbers), "collectives")
    for row in rows:
        told = ", ".join(
            f"{value['count']} {kind} of {value['mb']:.1f} MB"
            for kind, value in row["collectives"].items()
        )
        print(
            f"{row['task']:<10}{row['dtype']:<10}"
            f"{row['estimated_megacycles']:>10.1f}{row['estimated_ms']:>10.1f}"
            f"{row['memory_gb']:>10.2f}{row['gflop']:>10.0f}{row['accessed_gb']:>10.1f}"
            f"{row['compile_seconds']:>10.0f}  {told or 'none'}"
        )
    print("\nestimated ms by kind of module")
    print(f"{'':<20}" + "".join(f"{kind:>16}" for kind in (*KINDS, "other")))
    for row in rows:
        values = "".join(f"{value:>16.1f}" for value in row["by_kind_ms"].values())
        print(f"{row['task'] + ' ' + row['dtype']:<20}{values}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="drsformer", choices=PRESETS, help="the network")
    parser.add_argument("--topology", default="v5e:4x4", help="such as v6e:4x4")
    parser.add_argument("--batch", type=int, default=4, help="images a chip (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="of an image (default: %(default)s)")
    tasks, dtypes = ["forward", "training"], ["bfloat16", "float32"]
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--json", type=Path, default=Path("tpu_estimate.json"), metavar="FILE")
    return parser


def main() -> None:
    args = parser().parse_args()
    try:
        clock = chip_of(args.topology).clock_hz
        rows = [measure(args, task, dtype) for task in args.tasks for dtype in args.dtypes]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{args.preset} on {args.topology}, {args.batch} x {args.size}x{args.size} a chip")
    print_table(rows)
    record = {
        "benchmark": "tpu_estimate",
        "preset": args.preset,
        "topology": args.topology,
        "batch_per_chip": args.batch,
        "size": args.size,
        "clock_hz": clock,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "rows": rows,
    }
    args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
