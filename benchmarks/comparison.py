"""One program of ours against PyTorch's variants of it: measured in turn, told in a table."""

from __future__ import annotations

import contextlib
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
    take_turns,
    warm_up,
)
from drsformer_jax.models.config import DRSformerConfig

PYTORCH_VARIANTS = ("eager", "channels_last", "compile", "compile_channels_last")
OURS, FLOOR, MEMORY = "ours", "matrix product", "memory pass"
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
      The matrix-product floor, on a GPU the memory floor of ours, and figures by program: "runs"
      and "seconds", "times_ours" and "times_floor", "peak_bytes" while it ran, and what building
      and checking told.
    """
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        with Worker(ours, **settings, cache=cache) as cold:
            compiled = cold.facts
        # A second process, which finds the program in the cache.
        worker = stack.enter_context(Worker(ours, **settings, cache=cache))
        workers = {OURS: worker}
        cached = {"cached_compile_seconds": worker.facts["compile_seconds"]}
        for variant in variants:
            print(f"building PyTorch's {variant} ...", file=sys.stderr, flush=True)
            worker = Worker(theirs, **settings, variant=variant)
            workers[variant] = stack.enter_context(worker)
        first_seconds = warm_up(workers)
        if exact is None:
            expected, source, held = workers[variants[0]].output(), variants[0], list(workers)
        else:
            expected, source, held = exact, EXACT, [OURS]
        differences = check(workers, expected, source, dict.fromkeys(held, limit))
        floor = stack.enter_context(_matrix_product(settings["config"], settings["device"]))
        measured = {**workers, FLOOR: floor}
        if "traffic_bytes" in workers[OURS].facts:
            memory = Worker(jax_programs.memory_pass, device=settings["device"])
            measured[MEMORY] = stack.enter_context(memory)
        seconds = take_turns(measured, runs)
        facts = {
            name: {
                **worker.facts,
                "first_run_seconds": first_seconds[name],
                "difference": differences[name],
                "peak_bytes": worker.peak_bytes(),
            }
            for name, worker in workers.items()
        }
    for name in ("compile_seconds", "build_peak_bytes"):
        cached[name] = compiled[name]
    facts[OURS] |= cached
    rate = floor.facts["flops"] / min(seconds[FLOOR])
    memory_floor = {}
    if MEMORY in measured:
        bandwidth = measured[MEMORY].facts["bytes"] / min(seconds[MEMORY])
        traffic = facts[OURS]["traffic_bytes"]
        memory_floor = {
            "memory_pass": {"bytes_per_second": bandwidth},
            "memory_floor_seconds": traffic / bandwidth,
        }
    return {
        **{name: settings[name] for name in ("batch", "size")},
        "flops": flops,
        "difference_from": source,
        "matrix_product": {"size": floor.facts["size"], "flops_per_second": rate},
        "floor_seconds": flops / rate,
        **memory_floor,
        "programs": {
            name: {
                **facts[name],
                "runs": seconds[name],
                "seconds": dataclasses.asdict(Spread.of(seconds[name])),
                "times_ours": dataclasses.asdict(ratio(seconds[name], seconds[OURS])),
                "times_floor": Spread.of(seconds[name]).median * rate / flops,
            }
            for name in workers
        },
    }


def _matrix_product(config: DRSformerConfig, device: str) -> Worker:
    return Worker(
        jax_programs.matrix_product,
        dtype=config.dtype,
        precision=config.precision,
        device=device,
    )


def text(result: dict[str, Any]) -> str:
    """A comparison as a table."""
    rows = []
    for name, found in result["programs"].items():
        compile_seconds = found.get("compile_seconds")
        rows.append(
            (
                name,
                str(Spread(**found["seconds"])),
                str(Spread(**found["times_ours"])),
                f"{found['times_floor']:.2f}",
                f"{found['peak_bytes'] / 1e9:.2f}",
                "-" if compile_seconds is None else f"{compile_seconds:.1f}",
                f"{found['difference']:.0e}" if found["difference"] else "0",
            )
        )
    header = (
        "program",
        "seconds",
        "times ours",
        "times floor",
        "peak GB",
        "compile s",
        "difference",
    )
    product, ours = result["matrix_product"], result["programs"][OURS]
    memory = ""
    if "memory_floor_seconds" in result:
        memory = (
            f"ours moves {ours['traffic_bytes'] / 1e9:.1f} GB between its kernels: at the "
            f"{result['memory_pass']['bytes_per_second'] / 1e9:.0f} GB/s of one large pass "
            f"{result['memory_floor_seconds']:.3g} s, "
            f"{result['memory_floor_seconds'] / ours['seconds']['median']:.0%} of its time\n"
        )
    return (
        f"\n{result['batch']} x {result['size']} x {result['size']}: "
        f"{result['flops'] / 1e9:.1f} GFLOP; a matrix product of {product['size']} runs at "
        f"{product['flops_per_second'] / 1e9:.0f} GFLOP/s: floor {result['floor_seconds']:.3g} s\n"
        f"{records.table(header, rows)}\n"
        f"difference: relative, from {result['difference_from']}\n"
        f"{memory}"
        f"ours compiles in {ours['compile_seconds']:.1f} s, and in "
        f"{ours['cached_compile_seconds']:.1f} s in a process that finds it in the cache"
    )


def medians(result: dict[str, Any]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """By program: median seconds, and (lowest, highest)."""
    spreads = {name: Spread(**found["seconds"]) for name, found in result["programs"].items()}
    return (
        {name: spread.median for name, spread in spreads.items()},
        {name: (spread.lowest, spread.highest) for name, spread in spreads.items()},
    )
