"""What came of trying all kernels: a table for people, and a document to send."""

from __future__ import annotations

import platform
from typing import Any

import jax

from drsformer_jax.planning.plan_report import versions
from drsformer_jax.tables import aligned
from drsformer_jax.training.kernel_trials import Trial


def document(trials: list[Trial]) -> dict[str, Any]:
    """The same as JSON; null is what is not known."""
    return {
        "device": jax.devices()[0].device_kind,
        "interpreted": jax.default_backend() != "tpu",
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
        "differences": trial.differences,
        "other_form_differences": trial.of_form,
        "kernel_ms": kernel,
        "other_form_ms": form,
    }


def text(trials: list[Trial]) -> str:
    """A line a case, with the largest differences and both times."""
    device = jax.devices()[0].device_kind
    where = f"on {device}" if jax.default_backend() == "tpu" else f"interpreted on {device}"
    rows: list[tuple[str, ...]] = [
        ("kernel", "image", "largest difference", "other form's", "kernel ms", "other form ms", "")
    ]
    for trial in trials:
        times = trial.milliseconds
        rows.append(
            (
                trial.case.kernel,
                "x".join(map(str, trial.case.shape)),
                *(
                    f"{max(found.values()):.1e}" if found else "-"
                    for found in (trial.differences, trial.of_form)
                ),
                *(f"{ms:.2f}" for ms in times or ()),
                *("-" for _ in range(2 if times is None else 0)),
                trial.reason or ("agrees" if trial.agrees else "DIFFERS"),
            )
        )
    lines = aligned(rows, left=(0, 1, 6))
    return "\n".join([f"kernels against the other forms of their modules, {where}:", *lines])
