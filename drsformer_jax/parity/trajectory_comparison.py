"""Two programs train from one start on the same batches: how far apart they are at every step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from drsformer_jax.checkpoints.pytorch_file import require_torch
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.trajectory import Batch, Dtype, TrainingRecord, jax_trajectory
from drsformer_jax.training.optimizer import OptimizerOptions

# The runs, in the order in which they are computed and shown.
FLOAT64, PYTORCH, OURS = "pytorch_float64", "pytorch", "jax"
FOLLOWING = "pytorch_with_float64_decisions"


@dataclasses.dataclass(frozen=True)
class Difference:
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


# What is judged.
QUANTITIES = ("loss", "gradient_norm", "learning_rate", "relative_l2", "of_travel")


def _ratio(difference: float, reference: float) -> float:
    if difference == 0:
        return 0.0
    return difference / reference if reference else math.inf


def _relative(value: float, expected: float) -> float:
    return _ratio(abs(value - expected), abs(expected))


def difference(record: TrainingRecord, reference: TrainingRecord, travel: float) -> Difference:
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
    return Difference(
        loss=_relative(record.loss, reference.loss),
        gradient_norm=_relative(record.gradient_norm, reference.gradient_norm),
        learning_rate=_relative(record.learning_rate, reference.learning_rate),
        max_abs=max_abs,
        relative_l2=relative_l2,
        of_travel=of_travel,
        tensor=worst,
    )


@dataclasses.dataclass(frozen=True)
class Scalars:
    """The numbers of a `TrainingRecord`."""

    loss: float
    gradient_norm: float
    learning_rate: float

    @classmethod
    def of(cls, record: TrainingRecord) -> Scalars:
        return cls(record.loss, record.gradient_norm, record.learning_rate)


@dataclasses.dataclass(frozen=True)
class ComparedStep:
    """One step of both programs.

    Attributes:
      step: from 1.
      pytorch, jax: what they computed.
      difference: of JAX from PyTorch, in the same dtype.
      from_float64: in float32, the difference of each run from PyTorch's float64 run.
    """

    step: int
    pytorch: Scalars
    jax: Scalars
    difference: Difference
    from_float64: dict[str, Difference]


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
        yield ComparedStep(
            step,
            Scalars.of(found[PYTORCH]),
            Scalars.of(found[OURS]),
            difference(found[OURS], found[PYTORCH], travel),
            {name: difference(found[name], exact, travel) for name in found} if exact else {},
        )


def train_both(
    config: DRSformerConfig,
    options: OptimizerOptions,
    batches: Sequence[Batch],
    dtype: Dtype,
    seed: int,
) -> Iterator[ComparedStep]:
    """Trains a network in both programs and compares every step, one a batch.

    PyTorch is left with one thread: its threads and XLA's, in turns, would wait for one another.

    Args:
      config: the network; matrix products are computed at full precision whatever it says.
      options: of optimiser and schedule.
      batches: as for `jax_trajectory`.
      dtype: of all numbers.
      seed: of PyTorch's initialisation.

    Raises:
      UserError: PyTorch is not installed.
    """
    require_torch("the comparison with PyTorch's training")
    from drsformer_jax.parity import torch_training as torch_side

    torch_side.torch.set_num_threads(1)
    # Blocks in loops, as in the recipes.
    config = dataclasses.replace(config, dtype="float32", precision="highest", unroll=False)
    tensors = torch_side.initial_tensors(config, seed)

    def in_torch(dtype: Dtype) -> Iterator[TrainingRecord]:
        return torch_side.torch_trajectory(config, options, tensors, batches, dtype)

    ours = jax_trajectory(config, options, tensors, batches, dtype)
    if dtype == "float64":
        return compare_runs({PYTORCH: in_torch("float64"), OURS: ours})
    decisions = torch_side.Decisions()
    following = torch_side.within(torch_side.Decisions(follow=decisions), in_torch("float32"))
    return compare_runs(
        {
            FLOAT64: torch_side.within(decisions, in_torch("float64")),
            PYTORCH: in_torch("float32"),
            OURS: ours,
            FOLLOWING: following,
        }
    )
