"""The course of training: one start, one list of batches, and both programs on them.

Ours is the program that train.py runs; PyTorch's is `torch_training`; `trajectory_report` compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.checkpoints.names import from_tree, to_tree
from drsformer_jax.checkpoints.pytorch_file import require_torch
from drsformer_jax.data.synthetic.rain import add_rain, sample_rain
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.trajectory_report import (
    FLOAT64,
    FOLLOWING,
    OURS,
    PYTORCH,
    Batch,
    ComparedStep,
    Dtype,
    TrainingRecord,
    compare_runs,
)
from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
from drsformer_jax.training.sharding import make_mesh, shard_batch, state_sharding
from drsformer_jax.training.state import TrainState
from drsformer_jax.training.step import compile_train_step

# A photograph in the place of a real one: this many waves, none shorter than 1/4 of the picture.
_WAVES = 6
_HIGHEST_FREQUENCY = 4.0


def shortened_recipe(steps: int, warmup_steps: int = 0) -> OptimizerOptions:
    """The authors' recipe with a schedule that `steps` steps pass through from end to end.

    Two fifths are held, half of them decay, the last tenth stays at the final rate.
    """
    return OptimizerOptions(
        warmup_steps=warmup_steps, hold_steps=2 * steps // 5, decay_steps=steps // 2
    )


def rainy_batches(count: int, batch: int, size: int, seed: int) -> list[Batch]:
    """Batches as training sees them, from a seed: heavy synthetic rain over smooth pictures.

    Returns:
      "input" and "target" each, float32 `batch size size 3` in [0, 1], multiples of 1/255.
    """
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        clean = [_smooth_picture(size, rng) for _ in range(batch)]
        rainy = [add_rain(image, sample_rain("heavy", rng), rng) for image in clean]
        arrays = {"input": np.stack(rainy), "target": np.stack(clean)}
        batches.append({name: array.astype(np.float32) / 255 for name, array in arrays.items()})
    return batches


def _smooth_picture(size: int, rng: np.random.Generator) -> np.ndarray:
    """A sum of waves of random direction and colour; uint8 `size size 3`."""
    row, column = np.mgrid[:size, :size][..., None] / size
    frequency = rng.uniform(-_HIGHEST_FREQUENCY, _HIGHEST_FREQUENCY, (2, _WAVES))
    phase = rng.uniform(0, 2 * np.pi, _WAVES)
    waves = np.cos(2 * np.pi * (frequency[0] * row + frequency[1] * column) + phase)
    colours = rng.uniform(-60, 60, (_WAVES, 3))
    return np.clip(np.rint(128 + waves @ colours), 0, 255).astype(np.uint8)


def jax_trajectory(
    config: DRSformerConfig,
    options: OptimizerOptions,
    tensors: Mapping[str, np.ndarray],
    batches: Iterable[Batch],
    dtype: Dtype,
    *,
    compiler_options: dict[str, int | bool] | None = None,
) -> Iterator[TrainingRecord]:
    """Trains from `tensors` with the program that train.py runs; one step a batch.

    Args:
      config: the network.
      options: of optimiser and schedule.
      tensors: initial parameters by PyTorch's names; cast to `dtype`.
      batches: "input" and "target", B H W C in [0, 1], any float dtype; cast to `dtype`. The
        number of devices divides B.
      dtype: of parameters, activations, optimiser state and schedule.
      compiler_options: of XLA.
    """
    mesh = make_mesh()
    optimizer = make_optimizer(options)

    # Set around every call and not around the loop: while this generator waits, its caller's
    # programs run, and another one like it.
    x64 = dtype == "float64"
    with jax.enable_x64(x64):
        cast = {name: array.astype(dtype) for name, array in tensors.items()}
        params = jax.tree.map(jnp.asarray, to_tree(cast, config))
        state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        state = jax.device_put(state, state_sharding(state, mesh))
        step = compile_train_step(
            state, config, optimizer, options, mesh, compiler_options=compiler_options
        )
    for batch in batches:
        with jax.enable_x64(x64):
            arrays = {name: array.astype(dtype) for name, array in batch.items()}
            state, metrics = step(state, shard_batch(arrays, mesh))
            record = TrainingRecord(
                loss=float(metrics["loss"]),
                gradient_norm=float(metrics["gradient_norm"]),
                learning_rate=float(metrics["learning_rate"]),
                tensors=from_tree(state.params, config),
            )
        yield record


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
