"""One training step: a pure function from state and batch to state and numbers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params, restore
from drsformer_jax.ops.rows import RowShards
from drsformer_jax.training.optimizer import OptimizerOptions, learning_rate_schedule
from drsformer_jax.training.sharding import (
    AXES,
    BATCH_SPEC,
    DATA,
    FSDP,
    SPATIAL,
    batch_sharding,
    replicated,
    spec_axis,
    state_sharding,
    state_specs,
)
from drsformer_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# On CPU, sums may be taken in any order: those of kernel gradients then run on vector registers, a
# tenth of a step. NaN, infinity and divisions stay what they are (XLA's xla_cpu_fast_math_honor_*).
CPU_OPTIONS = {"xla_cpu_enable_fast_math": True}


def loss_and_metrics(
    config: DRSformerConfig, params: Params, batch: Batch
) -> tuple[jax.Array, Metrics]:
    """Mean absolute error of the restored batch, and how far output and target are from input.

    Args:
      batch: "input" and "target", B H W C in [0, 1]. Rows that are split over devices divide
        evenly, and the means are those of this device's pixels.
    """
    output = restore(config, params, batch["input"])
    loss = jnp.mean(jnp.abs(output - batch["target"]))
    return loss, {
        "loss": loss,
        "output_change": jnp.mean(jnp.abs(output - batch["input"])),
        "target_change": jnp.mean(jnp.abs(batch["target"] - batch["input"])),
    }


def _microbatches(batch: Batch, parts: int) -> Batch:
    """B ... -> parts B/parts ...; every device keeps the samples it holds."""

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def batch_gradient(
    config: DRSformerConfig, params: Params, batch: Batch, accumulation_steps: int
) -> tuple[Params, Metrics]:
    """Gradient and metrics of the whole batch, in `accumulation_steps` parts one after another."""
    loss = functools.partial(loss_and_metrics, config)
    gradient = jax.grad(loss, has_aux=True)
    if accumulation_steps == 1:
        return gradient(params, batch)

    def add_part(total: tuple[Params, Metrics], part: Batch) -> tuple[tuple[Params, Metrics], None]:
        return jax.tree.map(jnp.add, total, gradient(params, part)), None

    parts = _microbatches(batch, accumulation_steps)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add_part, zeros, parts)
    return jax.tree.map(lambda x: x / accumulation_steps, total)


def mesh_gradient(
    config: DRSformerConfig, params: Params, batch: Batch, accumulation_steps: int, mesh: Mesh
) -> tuple[Params, Metrics]:
    """`batch_gradient` on a mesh: of parameters and a batch laid out as `training.sharding` says.

    Every device computes the gradient of its own images as if it were alone, and then the mean over
    devices is taken. That is all that they tell each other, whatever the network is made of: one
    all-reduce. Parameters that are split over "fsdp" are gathered before, once a step, and of their
    gradients each device gets the mean of its part only (reduce-scatter).

    Devices along "spatial" share their images, and tell each other in between what `ops.rows` says.
    A device's gradient is then what its parameters' copy adds to the sum of the devices' losses, so
    that the mean is the gradient of the mean loss here, too.
    """
    specs = state_specs(params, mesh)
    if mesh.shape[SPATIAL] > 1:
        rows = RowShards(SPATIAL, mesh.shape[SPATIAL], batch["input"].shape[1])
        config = dataclasses.replace(config, rows=rows)

    def gather(part: jax.Array, spec: PartitionSpec) -> jax.Array:
        axis = spec_axis(spec)
        return part if axis is None else jax.lax.all_gather(part, FSDP, axis=axis, tiled=True)

    def scatter(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
        axis = spec_axis(spec)
        if axis is None:
            return gradient
        total = jax.lax.psum_scatter(gradient, FSDP, scatter_dimension=axis, tiled=True)
        return total / mesh.shape[FSDP]

    def on_each_device(params: Params, batch: Batch) -> tuple[Params, Metrics]:
        whole = jax.tree.map(gather, params, specs)
        gradients, metrics = batch_gradient(config, whole, batch, accumulation_steps)
        scattered = jax.tree.map(scatter, gradients, specs)
        # All that goes the same way goes in one message.
        leaves, tree = jax.tree.flatten(scattered)
        is_split = [spec_axis(spec) is not None for spec in jax.tree.leaves(specs)]
        split = {i: x for i, x in enumerate(leaves) if is_split[i]}
        others = {i: x for i, x in enumerate(leaves) if not is_split[i]}
        split = mean(split, (DATA, SPATIAL))
        others, metrics = mean((others, metrics), AXES)
        merged = split | others
        return jax.tree.unflatten(tree, [merged[i] for i in range(len(leaves))]), metrics

    def mean(values: Any, axes: tuple[str, ...]) -> Any:
        wide = tuple(axis for axis in axes if mesh.shape[axis] > 1)
        return jax.lax.pmean(values, wide) if wide else values

    return jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=(specs, BATCH_SPEC),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,
    )(params, batch)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    config: DRSformerConfig,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
      state: before the step.
      batch: "input" and "target", B H W C in [0, 1]; B is the global batch.
      accumulation_steps: parts that the batch is processed in; divides B.
      ema_decay: of the moving average, used when the state holds one.
      mesh: that state and batch are laid out on; None on one device.

    Returns:
      The state after the step, and scalars: loss, output_change (mean |output - input|),
      target_change (mean |target - input|), gradient_norm (before clipping), learning_rate.
    """
    if mesh is None or mesh.size == 1:
        gradients, metrics = batch_gradient(config, state.params, batch, accumulation_steps)
    else:
        gradients, metrics = mesh_gradient(config, state.params, batch, accumulation_steps, mesh)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        ema_params = jax.tree.map(
            lambda average, new: average * ema_decay + new * (1 - ema_decay), ema_params, params
        )
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    metrics["learning_rate"] = schedule(state.step)
    return TrainState(state.step + 1, params, opt_state, ema_params), metrics


def compile_train_step(
    state: TrainState,
    config: DRSformerConfig,
    optimizer: optax.GradientTransformation,
    options: OptimizerOptions,
    mesh: Mesh,
    *,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    compiler_options: dict[str, int | bool] | None = None,
) -> Any:
    """`train_step` jitted over a mesh: state and batch laid out as `training.sharding` says.

    The state is donated. The function is compiled at its first call for each batch shape.

    Args:
      state: a state of the run, or its shapes.
      compiler_options: of XLA, besides `CPU_OPTIONS` on CPU.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    step = functools.partial(
        train_step,
        config=config,
        optimizer=optimizer,
        schedule=learning_rate_schedule(options),
        accumulation_steps=accumulation_steps,
        ema_decay=ema_decay,
        mesh=mesh,
    )
    layout = state_sharding(state, mesh)
    return jax.jit(
        step,
        in_shardings=(layout, batch_sharding(mesh)),
        out_shardings=(layout, replicated(mesh)),
        donate_argnums=0,
        compiler_options=(CPU_OPTIONS if on_cpu else {}) | (compiler_options or {}),
    )
