"""Two programs train from one start: how far apart every step is, and when that is near enough.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

Dtype = Literal["float32", "float64"]
# "input" and "target", B H W C in [0, 1].
Batch = dict[str, np.ndarray]

# The runs, in the order in which they are computed and shown, and what they are called.
FLOAT64, PYTORCH, OURS = "pytorch_float64", "pytorch", "jax"
FOLLOWING = "pytorch_with_float64_decisions"
_RUNS = {
    PYTORCH: "PyTorch's float32",
    OURS: "JAX's float32",
    FOLLOWING: "PyTorch's float32 with float64's decisions",
}

# What is judged.
SCALARS = ("loss", "gradient_norm", "learning_rate")
_NAMES = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
    "relative_l2": "parameters (L2)",
    "of_travel": "parameters (of travel)",
}

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
class TrainingRecord:
    """What one step was and what it left behind.

    Attributes:
      loss: of the batch, before the update.
      gradient_norm: L2 norm over all parameters, before clipping.
      learning_rate: of this step.
      tensors: all parameters after the update, by PyTorch's names, in its layout.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    tensors: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class StepDifference:
    """How far a step is from the same step of another run.

    Attributes:
      loss, gradient_norm, learning_rate: relative.
      max_abs: of all elements of all parameters after the step.
      relative_l2: ||difference|| / ||parameter||, of the tensor where it is largest.
      of_travel: root mean square of the difference / sum of the learning rates so far, of the
        tensor where it is largest. AdamW moves an element by about one learning rate a step.
      tensor: where that is, by PyTorch's name.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    max_abs: float
    relative_l2: float
    of_travel: float
    tensor: str


def _ratio(difference: float, reference: float) -> float:
    if difference == 0:
        return 0.0
    return difference / reference if reference else math.inf


def _relative(value: float, expected: float) -> float:
    return _ratio(abs(value - expected), abs(expected))


def difference(record: TrainingRecord, reference: TrainingRecord, travel: float) -> StepDifference:
    """Compares one step of two runs, in float64.

    Args:
      record, reference: with the same tensors.
      travel: sum of the learning rates up to this step.
    """
    max_abs = relative_l2 = of_travel = 0.0
    worst = ""
    for name, array in reference.tensors.items():
        expected = array.astype(np.float64)
        error = record.tensors[name].astype(np.float64) - expected
        distance = float(np.linalg.norm(error))
        if math.isnan(distance):
            max_abs, relative_l2, of_travel, worst = math.nan, math.nan, math.nan, name
            break
        max_abs = max(max_abs, float(np.abs(error).max()))
        relative_l2 = max(relative_l2, _ratio(distance, float(np.linalg.norm(expected))))
        share = distance / math.sqrt(error.size) / travel
        if not worst or share > of_travel:
            of_travel, worst = share, name
    return StepDifference(
        loss=_relative(record.loss, reference.loss),
        gradient_norm=_relative(record.gradient_norm, reference.gradient_norm),
        learning_rate=_relative(record.learning_rate, reference.learning_rate),
        max_abs=max_abs,
        relative_l2=relative_l2,
        of_travel=of_travel,
        tensor=worst,
    )


@dataclasses.dataclass(frozen=True)
class ComparedStep:
    """One step of both programs.

    Attributes:
      step: from 1.
      pytorch, jax: "loss", "gradient_norm" and "learning_rate" of each.
      difference: of JAX from PyTorch, in the same dtype.
      from_float64: in float32, the difference of each run from PyTorch's float64 run.
    """

    step: int
    pytorch: dict[str, float]
    jax: dict[str, float]
    difference: StepDifference
    from_float64: dict[str, StepDifference]


def compare_runs(runs: Mapping[str, Iterable[TrainingRecord]]) -> Iterator[ComparedStep]:
    """Compares runs of equal length as they go on; one step of each is in memory.

    Args:
      runs: `PYTORCH` and `OURS`; in float32 also `FLOAT64` and whatever is to be compared with it.
        Of every step they are asked in this order.
    """
    travel = 0.0
    for step, records in enumerate(zip(*runs.values(), strict=True), start=1):
        found = dict(zip(runs, records, strict=True))
        exact = found.pop(FLOAT64, None)
        travel += found[PYTORCH].learning_rate
        scalars = {
            run: {name: getattr(found[run], name) for name in SCALARS} for run in (PYTORCH, OURS)
        }
        yield ComparedStep(
            step,
            pytorch=scalars[PYTORCH],
            jax=scalars[OURS],
            difference=difference(found[OURS], found[PYTORCH], travel),
            from_float64={n: difference(found[n], exact, travel) for n in found} if exact else {},
        )


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
                for name in _NAMES
                # Also where it is not a number.
                if not getattr(step.difference, name) <= self.tolerance
            ]
            if beyond:
                return beyond
        return []

    def _far_from_float64(self) -> list[str]:
        failures = []
        for name in _NAMES:
            worst, pytorchs = self._worst(OURS, name), self._worst(PYTORCH, name)
            limit = max(FLOAT32_FLOOR, self.tolerance * getattr(pytorchs, name))
            if name == "learning_rate":
                limit = FLOAT32_RATE_TOLERANCE
            if not getattr(worst, name) <= limit:
                failures.append(
                    f"JAX's float32 from float64: {_told(name, worst)}, {limit:.1e} allowed"
                )
        return failures

    def _worst(self, run: str, name: str) -> StepDifference:
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
                name: max(getattr(step.difference, name) for step in self.steps) for name in _NAMES
            }
            lines.append("Largest differences: " + _listed(worst))
        for run, words in _RUNS.items() if self.dtype == "float32" else ():
            worst = {name: getattr(self._worst(run, name), name) for name in _NAMES}
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


def _told(name: str, found: StepDifference) -> str:
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
    (loss, norm, rate), found = step.pytorch.values(), step.difference
    line = (
        f"{step.step:>4}  {loss:>11.8f}  {norm:>11.8f}  {rate:>11.5e}  "
        f"{found.loss:>8.1e}  {found.gradient_norm:>9.1e}  "
        f"{found.learning_rate:>8.1e}  {found.max_abs:>8.1e}  {found.relative_l2:>8.1e}  "
        f"{found.of_travel:>9.1e}"
    )
    for run in _RUNS:
        if run in step.from_float64:
            line += f"  {step.from_float64[run].of_travel:>8.1e}"
    return f"{line}  {found.tensor}"
