"""What a training run needs of its devices: memory, time, messages, from its compiled step."""

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
from drsformer_jax.planning.chips import Chip, chip_of, communication_seconds
from drsformer_jax.planning.out_of_memory import bytes_needed, is_out_of_memory
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


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices that a run is planned for.

    Attributes:
      topology: as it was asked for.
      platform: "tpu", "cpu" or "gpu".
      mesh: of the run.
      hbm_bytes: memory of one device that a program may have: what TPU's compiler says, or, if it
        does not, what is documented; None where nothing is known.
      chip: for estimates of time; None where there are none.
    """

    topology: str
    platform: str
    mesh: Mesh
    hbm_bytes: int | None
    chip: Chip | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The training step of a configuration on a target, compiled.

    Attributes:
      stage: that was planned: of several the one with most pixels a batch.
      stages: how many there are.
      program: None: the compiler found that it does not fit.
      bytes_per_chip: that a device needs; None: more than it has, and nobody knows how much.
      state_bytes: of `bytes_per_chip` parameters, moments and average, without padding.
      flops: on one device; see `ahead_of_time.training_flops`.
      model_flops: of them those that utilisation counts; see `ahead_of_time.model_flops`.
      larger: images at a time on a device, and bytes that they need, of a batch beyond the memory
        (TPU only); None where there is none.
      larger_without_remat: bytes that the same batch needs where nothing is computed again in the
        backward pass; None where it was not asked.
    """

    options: TrainingOptions
    model: DRSformerConfig
    target: Target
    stage: Stage
    stages: int
    program: Program | None
    bytes_per_chip: int | None
    state_bytes: int
    flops: float
    model_flops: float
    larger: tuple[int, int] | None = None
    larger_without_remat: int | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None where it is not known how much there is."""
        if self.program is None:
            return False
        hbm = self.target.hbm_bytes
        return None if hbm is None else self.program.memory_bytes <= hbm

    @property
    def images_per_chip(self) -> float:
        """Of the global batch; those cut into bands of rows count in part."""
        return self.stage.batch_size / self.target.mesh.size

    @property
    def largest_batch_per_chip(self) -> int | None:
        """An estimate: on the line through this batch and a larger one that was refused.

        The preset "tiny" in float32 on v5e, images 64x64: 512 a chip fit (14.86 of 15.75 GiB) and
        600 are refused; the line through 4 and 1,100 says 491, that through 4 and 700 says 617.
        Without a larger batch the training state stays, and all else grows with the images, which
        is too much for a small batch: 275 by 4 images, 339 by 32.
        """
        hbm, needed = self.target.hbm_bytes, self.bytes_per_chip
        if hbm is None or needed is None:
            return None
        planned = (self.images_at_a_time, needed)
        ends = (planned, self.larger) if self.larger else ((0, self.state_bytes), planned)
        return self.options.accumulation_steps * largest_batch(hbm, *ends)

    @property
    def bytes_without_remat(self) -> int | None:
        """An estimate, if blocks were not computed again: what an image of a larger batch, which
        was refused with as without, needs more, times the images of this one.

        The full network in bfloat16 on v5e, 4 images a chip: 9.9 GiB, compiled it takes 11.0.
        """
        if self.program is None or self.larger is None or self.larger_without_remat is None:
            return None
        images, needed = self.larger
        more = max(self.larger_without_remat - needed, 0) / images
        return round(self.program.memory_bytes + more * self.images_at_a_time)

    @property
    def remat_needed(self) -> bool | None:
        """Whether the batch fits only if blocks are computed again; None where it is not known."""
        if not recomputed(self.model, self.target.platform):
            return False if self.fits else None
        without, hbm = self.bytes_without_remat, self.target.hbm_bytes
        return None if without is None or hbm is None else without > hbm

    @property
    def fixed_bytes(self) -> int:
        """What does not grow with the batch: training state and program."""
        return self.state_bytes + (self.program.code_bytes if self.program else 0)

    @property
    def images_at_a_time(self) -> int:
        """That one device, or those along "spatial" together, hold."""
        shape = self.target.mesh.shape
        images = self.stage.batch_size // (shape[DATA] * shape[FSDP])
        return images // self.options.accumulation_steps

    @property
    def compute_seconds(self) -> float | None:
        """By the compiler's estimate of cycles."""
        chip = self.target.chip
        if self.program is None or chip is None:
            return None
        return self.program.cycles / chip.clock_hz or None

    @property
    def communication_seconds(self) -> float | None:
        """Of all collectives one after another, hidden behind nothing."""
        if self.program is None or self.target.chip is None:
            return None
        mesh = self.target.mesh
        return communication_seconds(
            self.program.collectives, self.target.chip, mesh.size, mesh.shape[FSDP]
        )

    @property
    def step_seconds(self) -> float | None:
        """Both together."""
        compute, communication = self.compute_seconds, self.communication_seconds
        return None if compute is None or communication is None else compute + communication

    @property
    def share_of_peak(self) -> float | None:
        """Model FLOPs utilisation by the estimated time; None without one."""
        if self.step_seconds is None or self.target.chip is None:
            return None
        return self.model_flops / (self.step_seconds * self.target.chip.flops_per_second)


def largest_batch(hbm_bytes: int, smaller: tuple[int, int], larger: tuple[int, int]) -> int:
    """Images a chip that fit, if memory grows evenly with them.

    Args:
      smaller, larger: images, and the bytes that they need.
    """
    (images, needed), (more_images, more_needed) = smaller, larger
    growing = max(more_needed - needed, 1) / (more_images - images)
    return max(math.floor(images + (hbm_bytes - needed) / growing), 0)


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


def recomputed(model: DRSformerConfig, platform: str) -> bool:
    """Whether blocks are computed again in the backward pass; by default they are.

    Blocks that are written out always are.
    """
    model = dataclasses.replace(model, platform=platform)
    return model.is_unrolled or model.is_recomputed


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
