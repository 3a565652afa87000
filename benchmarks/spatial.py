"""One large image over several devices, a band of its rows on each, against one device.

    python -m benchmarks.spatial --preset small --width 2048 --height 1536 --devices 4

On CPU the devices are parts of it and share its cores and memory: the times say what the exchange
costs, not what it gains. Bytes are those of XLA's buffer assignment (`memory_analysis`) for the
program of one device: its arguments (parameters and its band), its results, and scratch, most of
which holds activations. Both programs are compiled as `drsformer derain` compiles them.
`--compile-only` leaves out the runs, for images that do not fit in this machine's memory.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.inputs import SEED
from drsformer_jax.models.config import PRESETS


def noise(args: argparse.Namespace) -> np.ndarray:
    """The image, 1 H W 3 in [0, 1]."""
    return np.random.default_rng(SEED).random((1, args.height, args.width, 3), np.float32)


def build(args: argparse.Namespace) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Program, its arguments and facts, on one device and on several."""
    import jax

    from benchmarks.jax_programs import compiled
    from drsformer_jax.inference.forward import SplitForward, compiled_for_inference
    from drsformer_jax.models.drsformer import restore
    from drsformer_jax.parity.random_weights import random_weights

    config = PRESETS[args.preset]
    params = random_weights(config, SEED).params
    image = noise(args)
    split = SplitForward(config, args.devices)
    on_all = jax.device_put(params, split.params_sharding)
    one = compiled_for_inference(functools.partial(restore, config))
    programs = [
        (1, one, lambda: (jax.device_put(params), jax.device_put(image))),
        (args.devices, split.program(split.rows(image)), lambda: (on_all, split.bands(image))),
    ]
    built = []
    for count, program, place in programs:
        print(f"compiling for {count} device(s) ...", file=sys.stderr, flush=True)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), place()
        )
        executable, facts = compiled(program, *shapes)
        built.append((executable, place, {"devices": count, **facts}))
    return built


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    results, pictures = [], []
    for executable, place, facts in build(args):
        if not args.compile_only:
            arguments = place()
            start = time.perf_counter()
            picture = np.asarray(executable(*arguments))
            facts["seconds"] = time.perf_counter() - start
            pictures.append(picture[:, : args.height])
        results.append(facts)
    figures: dict[str, Any] = {"benchmark": "spatial", "results": results}
    print(table(results))
    if pictures:
        one, several = pictures
        figures["largest_difference"] = float(np.abs(several - one).max())
        figures["largest_change"] = float(np.abs(one - noise(args)).max())
        print(
            f"largest difference {figures['largest_difference']:.2e}, "
            f"of an image that the network changes by up to {figures['largest_change']:.2f}"
        )
    return figures


def table(results: list[dict[str, Any]]) -> str:
    """A row a program; megabytes are of one device."""
    keys = ("scratch_bytes", "argument_bytes", "result_bytes")
    rows = [
        (
            str(found["devices"]),
            *(f"{found[key] / 1e6:.1f}" for key in keys),
            f"{sum(found[key] for key in keys) / sum(results[0][key] for key in keys):.3f}",
            f"{found['compile_seconds']:.0f}",
            f"{found['seconds']:.1f}" if "seconds" in found else "-",
        )
        for found in results
    ]
    header = (
        *("devices", "scratch MB", "arguments MB", "result MB"),
        *("total, of one", "compile s", "run s"),
    )
    return records.table(header, rows)


def main() -> int:
    parser = records.parser("spatial", __doc__)
    parser.set_defaults(preset="small")
    add = parser.add_argument
    add("--width", type=records.image_size, default=2048, help="pixels")
    add("--height", type=records.image_size, default=1536, help="pixels")
    add("--devices", type=records.positive, default=4, help="that the rows are cut over")
    add("--compile-only", action="store_true", help="do not run the programs")
    args = parser.parse_args()

    from drsformer_jax.inference.forward import make_cpu_devices

    make_cpu_devices(args.devices)
    return records.run(benchmark, args)


if __name__ == "__main__":
    sys.exit(main())
