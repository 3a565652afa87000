"""What the network costs on a TPU, as XLA's TPU compiler estimates it; no TPU is needed.

    pip install 'drsformer_jax[tpu]'
    python -m benchmarks.tpu_estimate --json tpu_estimate.json

Forward pass on one chip and training step on a data mesh, compiled ahead of time: milliseconds by
the compiler's own `estimated_cycles`, and of kernels, for which it has none, by the programs that
it schedules for them; device memory, communication between chips; and where the milliseconds go, by
kind of module. All of it is an estimate: nothing here has run on a TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections import defaultdict
from typing import Any

from benchmarks import records
from drsformer_jax.models.config import PRESETS
from drsformer_jax.planning.ahead_of_time import (
    Program,
    compile_forward,
    compile_training,
)
from drsformer_jax.planning.chips import chip_of
from drsformer_jax.planning.topology import tpu_mesh

KINDS = {
    "MEFC": r"encoder_level0|refinement",
    "MSFN": r"\bffn\b|\bmsfn_",
    "TKSA": r"\battn\b|\btksa_",
    "LayerNorm": r"\bnorm[12]\b",
    "between levels": r"\b(down|up)\d_\d\b|reduce_chan|patch_embed|output",
}


def by_kind(program: Program, clock: float) -> dict[str, float]:
    """Estimated milliseconds by kind of module, the rest (copies, optimiser) last."""
    found: dict[str, float] = defaultdict(float)
    for operation in program.operations:
        kinds = (kind for kind, name in KINDS.items() if re.search(name, operation.source))
        found[next(kinds, "other")] += operation.total_cycles / clock * 1e3
    return {kind: found[kind] for kind in (*KINDS, "other")}


def measure(args: argparse.Namespace, task: str, dtype: str) -> dict[str, Any]:
    """Compiles one program and returns its line of the table."""
    topology, chip = args.topology, chip_of(args.topology)
    clock = chip.clock_hz
    config = dataclasses.replace(
        PRESETS[args.preset],
        dtype=dtype,
        platform="tpu",
        unroll=False,
        kernels=args.kernels,
        vmem=chip.vmem_mib,
    )
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
        "estimated_kernel_ms": program.kernel_cycles / clock * 1e3,
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


def table(rows: list[dict[str, Any]]) -> str:
    """A line a program: its cost, and where the milliseconds go."""
    numbers = (
        "Mcycles",
        "est. ms",
        "XLA's",
        "kernels'",
        "GB/chip",
        "GFLOP",
        "GB moved",
        "compile s",
    )
    costs = [
        (
            f"{row['task']} {row['dtype']}",
            *(f"{row[key]:.1f}" for key in ("estimated_megacycles", "estimated_ms")),
            f"{row['estimated_ms'] - row['estimated_kernel_ms']:.1f}",
            f"{row['estimated_kernel_ms']:.1f}",
            f"{row['memory_gb']:.2f}",
            f"{row['gflop']:.0f}",
            f"{row['accessed_gb']:.1f}",
            f"{row['compile_seconds']:.0f}",
            ", ".join(
                f"{found['count']} {kind} of {found['mb']:.1f} MB"
                for kind, found in row["collectives"].items()
            )
            or "none",
        )
        for row in rows
    ]
    kinds = [
        (f"{row['task']} {row['dtype']}", *(f"{ms:.1f}" for ms in row["by_kind_ms"].values()))
        for row in rows
    ]
    return (
        f"{records.table(('task', *numbers, 'collectives'), costs)}\n\n"
        f"{records.table(('estimated ms by kind of module', *KINDS, 'other'), kinds)}"
    )


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    clock = chip_of(args.topology).clock_hz
    rows = [measure(args, task, dtype) for task in args.tasks for dtype in args.dtypes]
    print(f"{args.preset} on {args.topology}, {args.batch} x {args.size}x{args.size} a chip")
    print(table(rows))
    return {
        "benchmark": "tpu_estimate",
        "preset": args.preset,
        "kernels": args.kernels,
        "topology": args.topology,
        "batch_per_chip": args.batch,
        "size": args.size,
        "clock_hz": clock,
        "rows": rows,
    }


def main() -> int:
    parser = records.parser("tpu_estimate", __doc__)
    add = parser.add_argument
    add("--topology", default="v5e:4x4", help="such as v6e:4x4")
    add("--kernels", choices=["on", "off"], default="on", help="Pallas kernels, where there are")
    add("--batch", type=records.positive, default=4, help="images a chip")
    add("--size", type=records.image_size, default=128, help="of an image")
    tasks, dtypes = ["forward", "training"], ["bfloat16", "float32"]
    add("--tasks", nargs="+", choices=tasks, default=tasks, help="what is compiled")
    add("--dtypes", nargs="+", choices=dtypes, default=dtypes, help="of the activations")
    return records.run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
