"""A plan as text for people and as a JSON document."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from drsformer_jax.planning.plan import Plan, recomputed
from drsformer_jax.tables import aligned

PACKAGES = ("jax", "jaxlib", "libtpu")
GIB = 2**30


def document(plan: Plan) -> dict[str, Any]:
    """All that is known of a plan, as JSON; null is what is not. Bytes and FLOPs are per chip."""
    target, program, stage = plan.target, plan.program, plan.stage
    step = plan.step_seconds
    return {
        "topology": target.topology,
        "chips": target.mesh.size,
        "global_batch": stage.batch_size,
        "bytes_per_chip": plan.bytes_per_chip,
        "hbm_bytes": target.hbm_bytes,
        "fits": plan.fits,
        "flops_per_chip": plan.flops,
        "collectives": {
            kind: {"count": count, "bytes": size}
            for kind, (count, size) in (program.collectives if program else {}).items()
        },
        "estimated_step_ms": _milliseconds(step),
        "images_per_second": stage.batch_size / step if step else None,
        "largest_batch_per_chip": plan.largest_batch_per_chip,
        "larger": _larger(plan),
        "device": target.platform,
        "mesh": dict(target.mesh.shape),
        "patch_size": stage.patch_size,
        "stages": plan.stages,
        "accumulation_steps": plan.options.accumulation_steps,
        "ema": plan.options.ema_decay > 0,
        "dtype": plan.model.dtype,
        "recomputed": recomputed(plan.model, target.platform),
        "remat_needed": plan.remat_needed,
        "bytes_without_remat": plan.bytes_without_remat,
        "state_bytes": plan.state_bytes,
        "scratch_bytes": program.scratch_bytes if program else None,
        "code_bytes": program.code_bytes if program else None,
        "estimated_megacycles": program.cycles / 1e6 if program and program.cycles else None,
        "clock_hz": target.chip.clock_hz if target.chip else None,
        "estimated_compute_ms": _milliseconds(plan.compute_seconds),
        "estimated_communication_ms": _milliseconds(plan.communication_seconds),
        "estimated_kernel_megacycles": program.kernel_cycles / 1e6 if program else None,
        "model_flops_per_chip": plan.model_flops,
        "share_of_peak": plan.share_of_peak,
        "kernels": plan.model.kernels,
        "compile_seconds": program.compile_seconds if program else None,
        "versions": {"python": platform.python_version(), **versions()},
    }


def text(plan: Plan) -> str:
    """The same for people, one thing a line."""
    target, stage = plan.target, plan.stage
    axes = " x ".join(f"{axis} {size}" for axis, size in target.mesh.shape.items())
    which = f" (of {plan.stages} stages the one with most pixels)" if plan.stages > 1 else ""
    lines = {
        "network": f"{plan.model.summary()}; {plan.model.dtype}",
        "devices": f"{target.platform} {target.topology}, {target.mesh.size} device(s): {axes}",
        "batch": f"{stage.batch_size:,} images {stage.patch_size}x{stage.patch_size}{which}, "
        f"{plan.images_per_chip:g} a device",
        "memory": _memory(plan),
        "largest batch": _largest(plan),
        "recomputation": _recomputation(plan),
        "work": f"{plan.flops / 1e12:.3g} TFLOP a device and step",
        "messages": _messages(plan),
        "time": _time(plan),
        "share of peak": _share(plan),
    }
    return "\n".join(aligned(lines.items(), left=(0, 1)))


def _memory(plan: Plan) -> str:
    hbm, needed = plan.target.hbm_bytes, plan.bytes_per_chip
    of = "" if hbm is None else f" of {hbm / GIB:.2f} GiB that a program may have"
    if needed is None:
        return f"more than there is{of}: DOES NOT FIT"
    verdict = {True: ": fits", False: ": DOES NOT FIT", None: ""}[plan.fits]
    state = f"state {plan.state_bytes / GIB:.2f} GiB"
    return f"{needed / GIB:.2f} GiB a device ({state}){of}{verdict}"


def _largest(plan: Plan) -> str:
    largest = plan.largest_batch_per_chip
    if largest is None:
        return "unknown"
    if plan.larger is None:
        return f"about {largest} images a device (estimate: all but the state grows with them)"
    images, needed = plan.larger
    images *= plan.options.accumulation_steps
    return (
        f"about {largest} images a device (estimate: between this batch and {images} images, which "
        f"need {needed / GIB:.2f} GiB)"
    )


def _larger(plan: Plan) -> dict[str, int] | None:
    if plan.larger is None:
        return None
    images, needed = plan.larger
    return {"batch_per_chip": plan.options.accumulation_steps * images, "bytes_per_chip": needed}


def _recomputation(plan: Plan) -> str:
    if not recomputed(plan.model, plan.target.platform):
        if plan.fits is False:
            return "no; with --config.model.remat=True blocks need less memory"
        return "no"
    if plan.model.unroll:
        return "yes, as always where blocks are written out (config.model.unroll)"
    yes = "yes, of blocks in the backward pass"
    needed, without = plan.remat_needed, plan.bytes_without_remat
    if needed is None or without is None:
        return f"{yes}; --config.model.remat=False plans without"
    verdict = "needed" if needed else "not needed (--config.model.remat=False plans without)"
    return f"{yes}; without it about {without / GIB:.2f} GiB a device (estimate): {verdict}"


def _messages(plan: Plan) -> str:
    if plan.program is None:
        return "unknown: not compiled"
    told = [
        f"{count} {kind} of {size / 1e6:.1f} MB together"
        for kind, (count, size) in plan.program.collectives.items()
    ]
    return ", ".join(told) or "none"


def _time(plan: Plan) -> str:
    step, compute, talk = plan.step_seconds, plan.compute_seconds, plan.communication_seconds
    if step is None or compute is None or talk is None or plan.target.chip is None:
        return "no estimate"
    clock = plan.target.chip.clock_hz
    kernels = plan.program.kernel_cycles if plan.program else 0
    of_kernels = (
        f", {kernels / clock * 1e3:.1f} of them kernels by their schedules" if kernels else ""
    )
    return (
        f"{step * 1e3:.1f} ms a step, {plan.stage.batch_size / step:.1f} images/s (estimate: "
        f"{compute * 1e3:.1f} ms of cycles at {clock / 1e9:g} GHz{of_kernels} + "
        f"{talk * 1e3:.2f} ms of messages)"
    )


def _share(plan: Plan) -> str:
    if plan.share_of_peak is None or plan.target.chip is None:
        return "no estimate"
    peak = plan.target.chip.flops_per_second / 1e12
    return (
        f"{plan.share_of_peak:.1%} of {peak:g} TFLOP/s in bfloat16 (estimate: "
        f"{plan.model_flops / 1e12:.3g} TFLOP, three forward passes, and nothing computed again)"
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def versions() -> dict[str, str | None]:
    """Of what a program depends on; None: not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
