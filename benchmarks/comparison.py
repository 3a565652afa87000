"""One program of ours against PyTorch's variants of it: measured in turn, told in a table."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import jax_programs, records
from benchmarks.pairs import (
    Outputs,
    Program,
    Spread,
    Worker,
    check,
    ratio,
    started,
    take_turns,
)
from drsformer_jax.models.config import DRSformerConfig

PYTORCH_VARIANTS = ("eager", "channels_last", "compile", "compile_channels_last")
OURS, FLOOR = "ours", "matrix product"
EXACT = "PyTorch in float64"
# Of a forward, from the exact one. In float32, ours is 3e-7 away where top-k chooses as in float64;
# one other choice between logits that are equal up to rounding moves an image by 2e-3, and with
# float64's choice the same image is 3e-7 away again. Where products are less than float32, there
# are more of them.
FLOAT32_LIMIT, LESS_LIMIT = 1e-2, 0.1

Build = Callable[..., Program]


def exact_forward(config: DRSformerConfig, batch: int, size: int, device: str) -> Outputs:
    """What PyTorch's eager network computes in float64, from the weights and images of the others.

    In float32 no variant of PyTorch will do: with random weights top-k meets ties, and at 512x512
    eager is 6e-3 away from this, channels_last 1e-2.
    """
    from benchmarks import torch_programs

    config = dataclasses.replace(config, dtype="float32", precision="highest")
    settings: dict[str, Any] = {"config": config, "batch": batch, "size": size, "device": device}
    with Worker(torch_programs.forward, **settings, variant="float64") as worker:
        worker.run()
        return worker.output()


def forward_limit(config: DRSformerConfig, device: str) -> float:
    """How far our forward may be from the exact one."""
    is_float32 = config.dtype == "float32" and (device == "cpu" or config.precision == "highest")
    return FLOAT32_LIMIT if is_float32 else LESS_LIMIT


def compare(
    ours: Build,
    theirs: Build,
    settings: dict[str, Any],
    *,
    variants: Sequence[str],
    flops: int,
    limit: float,
    runs: int,
    exact: Outputs | None = None,
) -> dict[str, Any]:
    """Builds all programs, checks that they agree, and runs them in turn.

    Args:
      ours, theirs: functions of `jax_programs` and `torch_programs`.
      settings: of both: "config", "batch", "size", "device", and what else they take.
      variants: of PyTorch.
      flops: of one run.
      limit: how far ours may be from `exact`, or all from the first variant where there is none.
      runs: turns.
      exact: what all should compute, as `exact_forward` does.

    Returns:
      The matrix-product floor, and figures by program: "runs" and "seconds", "times_ours" and
      "times_floor", "peak_bytes" while it ran, and what building and checking told.
    """
    config, device = settings["config"], settings["device"]
    with tempfile.TemporaryDirectory() as cache:
        with Worker(ours, **settings, cache=cache) as cold:
            compiled = cold.facts
        # Ours is a second process, which finds the program in the cache.
        compared = {OURS: (ours, {**settings, "cache": cache})}
        compared |= {variant: (theirs, {**settings, "variant": variant}) for variant in variants}
        product = {"dtype": config.dtype, "precision": config.precision, "device": device}
        floor = {FLOOR: (jax_programs.matrix_product, product)}
        print(f"building {', '.join(compared)} ...", file=sys.stderr, flush=True)
        with started(compared) as workers:
            first_seconds = take_turns(workers, 1)
            if exact is None:
                source, held = variants[0], list(workers)
                expected = workers[source].output()
            else:
                expected, source, held = exact, EXACT, [OURS]
            differences = check(workers, expected, source, dict.fromkeys(held, limit))
            with started(floor) as measures:
                seconds = take_turns({**workers, **measures}, runs)
                measured = measures[FLOOR].facts
            facts = {
                name: {
                    **worker.facts,
                    "first_run_seconds": first_seconds[name][0],
                    "difference": differences[name],
                    "peak_bytes": worker.peak_bytes(),
                }
                for name, worker in workers.items()
            }
    facts[OURS] |= {
        "cached_compile_seconds": facts[OURS]["compile_seconds"],
        **{name: compiled[name] for name in ("compile_seconds", "build_peak_bytes")},
    }
    rate = measured["flops"] / min(seconds[FLOOR])
    return {
        **{name: settings[name] for name in ("batch", "size")},
        "flops": flops,
        "difference_from": source,
        "matrix_product": {"size": measured["size"], "flops_per_second": rate},
        "floor_seconds": flops / rate,
        "programs": {
            name: {
                **found,
                "runs": seconds[name],
                "seconds": dataclasses.asdict(Spread.of(seconds[name])),
                "times_ours": dataclasses.asdict(ratio(seconds[name], seconds[OURS])),
                "times_floor": Spread.of(seconds[name]).median * rate / flops,
            }
            for name, found in facts.items()
        },
    }


def text(result: dict[str, Any]) -> str:
    """A comparison as a table."""
    header = (
        *("program", "seconds", "times ours", "times floor"),
        *("peak GB", "compile s", "difference"),
    )
    rows = [
        (
            name,
            str(Spread(**found["seconds"])),
            str(Spread(**found["times_ours"])),
            f"{found['times_floor']:.2f}",
            f"{found['peak_bytes'] / 1e9:.2f}",
            f"{found['compile_seconds']:.1f}" if "compile_seconds" in found else "-",
            f"{found['difference']:.0e}" if found["difference"] else "0",
        )
        for name, found in result["programs"].items()
    ]
    product, ours = result["matrix_product"], result["programs"][OURS]
    return (
        f"\n{result['batch']} x {result['size']} x {result['size']}: "
        f"{result['flops'] / 1e9:.1f} GFLOP; a matrix product of {product['size']} runs at "
        f"{product['flops_per_second'] / 1e9:.0f} GFLOP/s: floor {result['floor_seconds']:.3g} s\n"
        f"{records.table(header, rows)}\n"
        f"difference: relative, from {result['difference_from']}\n"
        f"ours compiles in {ours['compile_seconds']:.1f} s, and in "
        f"{ours['cached_compile_seconds']:.1f} s in a process that finds it in the cache"
    )
