"""Plans a training run: compiles its step for the devices, and one beyond their memory."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from drsformer_jax.data.pipeline import Stage
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.planning.ahead_of_time import (
    Program,
    compile_training,
    model_flops,
    training_flops,
    training_state,
    usable_memory,
)
from drsformer_jax.planning.chips import chip_of
from drsformer_jax.planning.out_of_memory import bytes_needed, is_out_of_memory
from drsformer_jax.planning.plan import Plan, Target, largest_batch, recomputed
from drsformer_jax.planning.topology import tpu_mesh
from drsformer_jax.training.config import TrainingOptions, training_options
from drsformer_jax.training.sharding import (
    DATA,
    FSDP,
    SPATIAL,
    check_divisible,
    make_mesh,
    state_sharding,
)

# A batch so many times what seems to fit is refused, which takes the compiler a tenth of the time
# that a program takes (40 of 400 seconds for the full network), and it names what that batch needs.
BEYOND = 3


def planned_options(config: Mapping[str, Any], batch: int | None) -> TrainingOptions:
    """A configuration, checked, with another global batch if one is given (in every stage).

    Raises:
      UserError: a key is missing or its value out of range.
    """
    options = training_options(config)
    if batch is None:
        return options
    if batch < 1:
        raise UserError(f"--batch {batch}: must be at least 1")
    stages = [(stage.steps, batch, stage.patch_size) for stage in options.stages]
    changed = {"progressive": stages} if config["progressive"] else {"global_batch": batch}
    return training_options({**config, **changed})


def target_of(topology: str, platform: str, options: TrainingOptions) -> Target:
    """The devices: a TPU topology, or a number of those that this machine has.

    Raises:
      UserError: they are not there, libtpu is missing, or they do not make up config.mesh.
    """
    if platform == "tpu":
        chip = chip_of(topology)
        mesh = tpu_mesh(topology, options=options.mesh)
        return Target(topology, platform, mesh, usable_memory(mesh) or chip.hbm_bytes, chip)
    try:
        devices = jax.devices(platform)
    except RuntimeError as error:
        raise UserError(f"--device {platform}: JAX has no such device here") from error
    count = int(topology)
    if count > len(devices):
        raise UserError(f"--topology {count}: this machine has {len(devices)} {platform} device(s)")
    memory = devices[0].memory_stats() if platform == "gpu" else None
    hbm = memory.get("bytes_limit") if memory else None
    mesh = make_mesh(options.mesh, devices=devices[:count])
    return Target(topology, platform, mesh, hbm, None)


def make_plan(options: TrainingOptions, target: Target) -> Plan:
    """Compiles the training step of a run, which takes minutes for the full network on TPU.

    Raises:
      UserError: the mesh does not divide batch or patches.
    """
    mesh, parts = target.mesh, options.accumulation_steps
    stage = max(options.stages, key=lambda stage: stage.batch_size * stage.patch_size**2)
    check_divisible(options.stages, parts, mesh)
    model = dataclasses.replace(options.model, platform=target.platform)
    if target.chip is not None:
        vmem = target.chip.vmem_mib
        model = dataclasses.replace(model, unroll=bool(model.unroll), vmem=vmem)
    rows = stage.patch_size // mesh.shape[SPATIAL]
    images = stage.batch_size // (mesh.shape[DATA] * mesh.shape[FSDP])
    size = (rows, stage.patch_size)
    flops = training_flops(
        model,
        images,
        size,
        optimizer_options=options.optimizer,
        ema_decay=options.ema_decay,
    )
    compiled = functools.partial(_compiled, options, mesh, stage)
    program, needed = compiled(model, stage.batch_size)
    state = state_bytes(options, mesh)
    useful = model_flops(model, images, size)
    stages = len(options.stages)
    plan = Plan(options, model, target, stage, stages, program, needed, state, flops, useful)
    hbm = target.hbm_bytes
    if program is None or target.platform != "tpu" or hbm is None:
        return plan
    planned = plan.images_at_a_time
    # Without the program itself, which is most of a small network's memory: it would hide how
    # little an image needs, and a batch that is not beyond the memory takes long to compile.
    seems_to_fit = largest_batch(hbm, (0, plan.fixed_bytes), (planned, program.memory_bytes))
    factor = max(math.ceil(BEYOND * seems_to_fit / planned), 2)
    _, more = compiled(model, factor * stage.batch_size)
    if more is None:
        return plan
    without = None
    if recomputed(model, target.platform) and not model.unroll:
        _, without = compiled(dataclasses.replace(model, remat=False), factor * stage.batch_size)
    return dataclasses.replace(plan, larger=(factor * planned, more), larger_without_remat=without)


def _compiled(
    options: TrainingOptions, mesh: Mesh, stage: Stage, model: DRSformerConfig, batch: int
) -> tuple[Program | None, int | None]:
    """The training step, or None if it does not fit; and the bytes it needs, as far as known."""
    try:
        program = compile_training(
            model,
            mesh,
            batch,
            stage.patch_size,
            optimizer_options=options.optimizer,
            accumulation_steps=options.accumulation_steps,
            ema_decay=options.ema_decay,
        )
    except JaxRuntimeError as error:
        if not is_out_of_memory(str(error)):
            raise
        return None, bytes_needed(str(error))
    return program, program.memory_bytes


def state_bytes(options: TrainingOptions, mesh: Mesh) -> int:
    """Of the training state on one device."""
    state = training_state(options.model, options.optimizer, ema=options.ema_decay > 0)
    layout = state_sharding(state, mesh)

    def size(leaf: Any, sharding: jax.sharding.NamedSharding) -> int:
        return math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, state, layout)))
