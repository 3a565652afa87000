"""The check of all kernels on the TPU at hand: a table for people, and a document to send."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import jax

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.kernel_trials import Case, Trial, cases, tried
from drsformer_jax.ops.execution import TPU, Execution
from drsformer_jax.planning.plan_report import versions
from drsformer_jax.tables import aligned

# What a training step of the paper's network has on a chip.
BATCH, SIZE = 4, 128

# Without a TPU, kernels are interpreted, which takes minutes for anything larger.
SMALL_BATCH, SMALL_SIZE = 2, 8


def selfcheck(config: DRSformerConfig | None = None) -> list[Trial]:
    """Every kernel against the other form of its module, values and gradients; on a TPU timed.

    Args:
      config: of the network; by default the paper's in both dtypes. Without a TPU, one of the
        smallest is taken, in float32, and its smallest cases.
    """
    if jax.default_backend() == TPU:
        network = config or PRESETS["drsformer"]
        kinds = [network.dtype] if config else ["bfloat16", "float32"]
        found = []
        for dtype in kinds:
            how = dataclasses.replace(network.execution, dtype=dtype)
            found += [tried(case, how, timed=True) for case in cases(network, BATCH, SIZE, SIZE)]
        return found
    from drsformer_jax.ops.tpu.lanes import interpreting

    how = Execution(platform=TPU, precision="highest")
    with interpreting():
        return [tried(case, how) for case in smallest_cases()]


def smallest_cases() -> list[Case]:
    """One case of each kernel that an interpreter can afford."""
    network = dataclasses.replace(PRESETS["tiny"], dim=2, heads=(1, 1, 1, 1))
    found: dict[str, Case] = {}
    for case in cases(network, SMALL_BATCH, SMALL_SIZE, SMALL_SIZE):
        found.setdefault(case.kernel, case)
    return list(found.values())


def document(trials: list[Trial]) -> dict[str, Any]:
    """The same as JSON; null is what is not known."""
    return {
        "device": jax.devices()[0].device_kind,
        "interpreted": jax.default_backend() != TPU,
        "agrees": all(trial.agrees for trial in trials),
        "trials": [_trial(trial) for trial in trials],
        "versions": {"python": platform.python_version(), **versions()},
    }


def _trial(trial: Trial) -> dict[str, Any]:
    kernel, form = trial.milliseconds or (None, None)
    return {
        "kernel": trial.case.kernel,
        "shape": list(trial.case.shape),
        "agrees": trial.agrees,
        "reason": trial.reason,
        "tolerance": trial.tolerance,
        "differences": trial.differences,
        "kernel_ms": kernel,
        "other_form_ms": form,
    }


def text(trials: list[Trial]) -> str:
    """A line a case, with its largest difference and both times."""
    device = jax.devices()[0].device_kind
    where = f"on {device}" if jax.default_backend() == TPU else f"interpreted on {device}"
    rows: list[tuple[str, ...]] = [
        ("kernel", "image", "largest difference", "kernel ms", "other form ms", "")
    ]
    for trial in trials:
        times = trial.milliseconds
        rows.append(
            (
                trial.case.kernel,
                "x".join(map(str, trial.case.shape)),
                f"{trial.largest:.1e}" if trial.differences else "-",
                *(f"{ms:.2f}" for ms in times or ()),
                *("-" for _ in range(2 if times is None else 0)),
                trial.reason or ("agrees" if trial.agrees else "DIFFERS"),
            )
        )
    lines = aligned(rows, left=(0, 1, 5))
    return "\n".join([f"kernels against the other forms of their modules, {where}:", *lines])
