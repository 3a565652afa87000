"""What a comparison of two courses of training found, and when it is good enough.

In float64 they must agree: only rounding in the sixteenth digit separates them, and the course of
training does not make much of it.

In float32 nobody can ask for that, for PyTorch does not agree with itself. Sooner or later a value
in front of a ReLU (or two attention logits) agrees with zero (with one another) to rounding, and
one activation of a million falls on the other side. The loss does not show it, but part of some
gradients is another one; AdamW gives every element of a gradient the same weight, however small it
is, and so turns that into a visible part of its next steps, after which more decisions differ. How
much this is gets measured beside it: PyTorch's float32 run against its float64 run, and once more
with the decisions of the float64 run, where it stays at rounding. Ours must be no farther from the
float64 run than a small multiple of PyTorch's own distance, over the whole run: when the first
decision falls differently is chance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from drsformer_jax.parity.trajectory import Dtype
from drsformer_jax.parity.trajectory_comparison import (
    FOLLOWING,
    OURS,
    PYTORCH,
    QUANTITIES,
    ComparedStep,
    Difference,
)

# float64: the largest relative difference. float32: how many times PyTorch's own distance from
# float64 ours may be.
TOLERANCES: dict[Dtype, float] = {"float64": 1e-9, "float32": 10.0}

# Differences that rounding alone explains; below, float32 runs are not compared.
FLOAT32_FLOOR = 1e-5
# A float32 cosine loses digits where it meets the final rate, 300 times below the peak.
FLOAT32_RATE_TOLERANCE = 1e-4
# Before that, it may be chance that one program has met an open decision and the other has not.
FLOAT32_STEPS = 20


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """All that a comparison found.

    Attributes:
      settings: what was compared and how; JSON values, in the order in which they are printed.
      dtype: of the runs.
      tolerance: of float64, the largest relative difference; of float32, how many times PyTorch's
        distance from its float64 run ours may be.
      steps: all of them.
    """

    settings: dict[str, Any]
    dtype: Dtype
    tolerance: float
    steps: Sequence[ComparedStep]

    @property
    def passed(self) -> bool:
        """Whether all steps are within tolerance."""
        return not self.failures()

    def failures(self) -> list[str]:
        """What is beyond tolerance: of the first such step (float64), of the run (float32)."""
        if self.dtype == "float32":
            return self._far_from_float64()
        for step in self.steps:
            beyond = [
                f"step {step.step}: {_told(name, step.difference)}, tolerance {self.tolerance:g}"
                for name in QUANTITIES
                # Also where it is not a number.
                if not getattr(step.difference, name) <= self.tolerance
            ]
            if beyond:
                return beyond
        return []

    def _far_from_float64(self) -> list[str]:
        failures = []
        for name in QUANTITIES:
            worst, pytorchs = self._worst(OURS, name), self._worst(PYTORCH, name)
            limit = max(FLOAT32_FLOOR, self.tolerance * getattr(pytorchs, name))
            if name == "learning_rate":
                limit = FLOAT32_RATE_TOLERANCE
            if not getattr(worst, name) <= limit:
                failures.append(
                    f"JAX's float32 from float64: {_told(name, worst)}, {limit:.1e} allowed"
                )
        return failures

    def _worst(self, run: str, name: str) -> Difference:
        """The step's difference from the float64 run in which a quantity is worst."""
        found = [step.from_float64[run] for step in self.steps]
        return max(
            found, key=lambda d: math.inf if math.isnan(getattr(d, name)) else getattr(d, name)
        )

    def verdict(self) -> str:
        """What was found, in a few lines; the last begin with PASS or FAIL."""
        lines = []
        if self.dtype == "float64":
            worst = {
                name: max(getattr(step.difference, name) for step in self.steps)
                for name in QUANTITIES
            }
            lines.append("Largest differences: " + _listed(worst))
        for run, words in _RUNS.items() if self.dtype == "float32" else ():
            worst = {name: getattr(self._worst(run, name), name) for name in QUANTITIES}
            lines.append(f"{words}, farthest from float64: {_listed(worst)}")
        failures = self.failures()
        if failures:
            return "\n".join([*lines, *(f"FAIL: {failure}" for failure in failures)])
        within = f"within {self.tolerance:g}"
        if self.dtype == "float32":
            within = f"JAX at most {self.tolerance:g} times as far from float64 as PyTorch"
        return "\n".join([*lines, f"PASS: {len(self.steps)} steps in {self.dtype}, {within}"])

    def to_json(self) -> dict[str, Any]:
        """For `files.write_json`."""
        return {
            "passed": self.passed,
            "verdict": self.verdict(),
            "settings": self.settings,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }


_NAMES = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
    "relative_l2": "parameters (L2)",
    "of_travel": "parameters (of travel)",
}
_RUNS = {
    PYTORCH: "PyTorch's float32",
    OURS: "JAX's float32",
    FOLLOWING: "PyTorch's float32 with float64's decisions",
}


def _told(name: str, found: Difference) -> str:
    where = f" in {found.tensor}" if name == "of_travel" else ""
    return f"{_NAMES[name]} off by {getattr(found, name):.1e}{where}"


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{_NAMES[name]} {value:.1e}" for name, value in values.items())


def table_header(dtype: Dtype) -> str:
    """The two lines above the rows of `table_row`."""
    above = f"{'':4}  {'PyTorch':^37}  {'JAX differs: relative':^29}  {'parameters':^29}"
    below = (
        f"step  {'loss':>11}  {'gradient':>11}  {'rate':>11}  {'loss':>8}  {'gradient':>9}  "
        f"{'rate':>8}  {'max abs':>8}  {'rel. L2':>8}  {'of travel':>9}"
    )
    if dtype == "float32":
        above += f"  {'from float64, of travel':^28}"
        below += f"  {'PyTorch':>8}  {'JAX':>8}  {'decided':>8}"
    return f"{above.rstrip()}\n{below}  farthest tensor"


def table_row(step: ComparedStep) -> str:
    """One step: PyTorch's numbers, how far JAX is from them, and in float32 both from float64."""
    theirs, found = step.pytorch, step.difference
    line = (
        f"{step.step:>4}  {theirs.loss:>11.8f}  {theirs.gradient_norm:>11.8f}  "
        f"{theirs.learning_rate:>11.5e}  {found.loss:>8.1e}  {found.gradient_norm:>9.1e}  "
        f"{found.learning_rate:>8.1e}  {found.max_abs:>8.1e}  {found.relative_l2:>8.1e}  "
        f"{found.of_travel:>9.1e}"
    )
    for run in _RUNS:
        if run in step.from_float64:
            line += f"  {step.from_float64[run].of_travel:>8.1e}"
    return f"{line}  {found.tensor}"
