"""What a training run needs of its devices: memory, time, messages."""

from __future__ import annotations

import dataclasses
import math

from jax.sharding import Mesh

from drsformer_jax.data.pipeline import Stage
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.planning.ahead_of_time import Program
from drsformer_jax.planning.chips import Chip, communication_seconds
from drsformer_jax.training.config import TrainingOptions
from drsformer_jax.training.sharding import DATA, FSDP


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


def recomputed(model: DRSformerConfig, platform: str) -> bool:
    """Whether blocks are computed again in the backward pass; by default they are.

    Blocks that are written out always are.
    """
    model = dataclasses.replace(model, platform=platform)
    return model.is_unrolled or model.is_recomputed
