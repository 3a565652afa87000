"""One training step: a pure function from state and batch to state and numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params, restore
from drsformer_jax.training.optimizer import OptimizerOptions, learning_rate_schedule
from drsformer_jax.training.sharding import DATA_AXIS, batch_sharding, replicated
from drsformer_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def loss_and_metrics(
    config: DRSformerConfig, params: Params, batch: Batch
) -> tuple[jax.Array, Metrics]:
    """Mean absolute error of the restored batch, and how far output and target are from input.

    Args:
      batch: "input" and "target", B H W C in [0, 1].
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
    gradient = jax.grad(functools.partial(loss_and_metrics, config), has_aux=True)
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
    """`batch_gradient` with the batch split over the "data" axis of a mesh.

    Every device computes the gradient of its own images as if it were alone, and then their mean is
    taken: that one reduction is all that devices tell each other, whatever the network is made of.
    """

    def mean_over_devices(params: Params, batch: Batch) -> tuple[Params, Metrics]:
        return jax.lax.pmean(batch_gradient(config, params, batch, accumulation_steps), DATA_AXIS)

    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    return jax.shard_map(
        mean_over_devices, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=False
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
      mesh: over whose "data" axis the batch is split; None on one device.

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
    config: DRSformerConfig,
    optimizer: optax.GradientTransformation,
    options: OptimizerOptions,
    mesh: Mesh,
    *,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    compiler_options: dict[str, int | bool] | None = None,
) -> TrainStep:
    """`train_step` jitted over a mesh: batch split over "data", the rest replicated, state donated.

    It is compiled at its first call for each batch shape.
    """
    step = functools.partial(
        train_step,
        config=config,
        optimizer=optimizer,
        schedule=learning_rate_schedule(options),
        accumulation_steps=accumulation_steps,
        ema_decay=ema_decay,
        mesh=mesh,
    )
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, batch_sharding(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
        compiler_options=compiler_options,
    )
