"""Peak memory of `drsformer convert`, for each pair of forms, with the paper's network.

    python -m benchmarks.convert_memory --json convert_memory.json

Every conversion runs in a process of its own, which first imports all that the conversions use.
What is printed is the peak of resident memory above that, in units of the network's float32
tensors: the parameter tree alone is 1. Pages of a mapped source file count, although the system
may take them back at any time. Linux only: the peak is VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.pairs import Program, Worker

DESTINATIONS = ("net.pth", "net.safetensors", "net")
SOURCES = (*DESTINATIONS, "net16.pth", "net64.pth", "net16.safetensors")
IMPORTED = (
    "orbax.checkpoint",
    "safetensors.numpy",
    "torch",
    "drsformer_jax.checkpoints.orbax_folder",
    "drsformer_jax.checkpoints.weights",
)


def conversion(source: Path, destination: Path) -> Program:
    """`drsformer convert` with all that conversions use imported; called in a fresh process."""
    for module in IMPORTED:
        importlib.import_module(module)
    from drsformer_jax.cli.main import main

    def run() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            code = main(["convert", str(source), str(destination)])
        if code:
            raise RuntimeError(f"converting {source.name} to {destination.name} failed")

    return Program(run)


def measure(source: Path, destination: Path) -> dict[str, Any]:
    """{"bytes": peak above the imports, "seconds": of the conversion} of one conversion."""
    with Worker(conversion, source=source, destination=destination) as worker:
        seconds = worker.run()
        return {"bytes": worker.peak_bytes() - worker.facts["built_bytes"], "seconds": seconds}


def write_sources(folder: Path, preset: str) -> int:
    """Writes one network in every form of SOURCES; the size of its float32 tensors in bytes."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from drsformer_jax.checkpoints.names import from_tree
    from drsformer_jax.checkpoints.weights import save_weights
    from drsformer_jax.models.config import PRESETS
    from drsformer_jax.parity.random_weights import random_weights

    weights = random_weights(PRESETS[preset], seed=0)
    for name in DESTINATIONS:
        save_weights(folder / name, weights)
    state = from_tree(weights.params, weights.config)
    half = {name: torch.from_numpy(np.float16(array)) for name, array in state.items()}
    torch.save({"params": half}, folder / "net16.pth")
    save_file(half, folder / "net16.safetensors")
    double = {name: torch.from_numpy(np.float64(array)) for name, array in state.items()}
    torch.save({"params": double}, folder / "net64.pth")
    return sum(array.nbytes for array in state.values())


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = write_sources(folder, args.preset)
        print(f"{args.preset}: {size / 1e6:.0f} MB of float32 tensors = 1")
        print(f"{'from':<20}{'to':<20}{'peak':>6}{'seconds':>10}")
        for source in SOURCES:
            for number, name in enumerate(DESTINATIONS):
                # A folder of its own, because source and destination may have the same name.
                (folder / f"{source}-{number}").mkdir()
                result = measure(folder / source, folder / f"{source}-{number}" / name)
                rows.append(
                    {"from": source, "to": name, **result, "copies": result["bytes"] / size}
                )
                print(f"{source:<20}{name:<20}{rows[-1]['copies']:>6.2f}{result['seconds']:>10.1f}")
    return {"benchmark": "convert_memory", "tensor_bytes": size, "results": rows}


def main() -> int:
    parser = records.parser("convert_memory", __doc__)
    return records.run(benchmark, parser.parse_args(), plotted=False)


if __name__ == "__main__":
    sys.exit(main())
