"""Peak memory of `drsformer convert`, for each pair of forms, with the paper's network.

    python -m benchmarks.convert_memory --json convert_memory.json

Every conversion runs in a process of its own, which first imports all that the conversions use.
What is printed is the peak of resident memory above that, in units of the network's float32
tensors: the parameter tree alone is 1. Pages of a mapped source file count, although the system
may take them back at any time. Linux only: the peak is VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "jax", "torch", "safetensors", "orbax-checkpoint")
DESTINATIONS = ("net.pth", "net.safetensors", "net")
SOURCES = (*DESTINATIONS, "net16.pth", "net64.pth", "net16.safetensors")

# What the child does: argv is SRC DST. Writing 5 to clear_refs sets VmHWM to what is resident now.
CHILD = """
import contextlib, json, os, sys, time
import orbax.checkpoint, safetensors.numpy, torch
from drsformer_jax.checkpoints import orbax, weights
from drsformer_jax.cli.main import main

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

open("/proc/self/clear_refs", "w").write("5")
before, start = peak(), time.perf_counter()
with contextlib.redirect_stdout(sys.stderr):
    code = main(["convert", *sys.argv[1:]])
print(json.dumps({"bytes": peak() - before, "seconds": time.perf_counter() - start}))
sys.exit(code)
"""


def measure(source: Path, destination: Path) -> dict[str, Any]:
    """{"bytes": peak above the imports, "seconds": of the conversion} of one conversion."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, source, destination],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"converting {source.name} to {destination.name} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="drsformer", help="the network (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("convert_memory.json"), metavar="FILE")
    args = parser.parse_args()
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
    record = {
        "benchmark": "convert_memory",
        "preset": args.preset,
        "tensor_bytes": size,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "results": rows,
    }
    args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
