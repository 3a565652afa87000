"""Compiles forward pass and training step for TPUs that this machine does not have."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import param_shapes, restore
from drsformer_jax.planning.chips import chip_of_device
from drsformer_jax.planning.compiled_text import (
    Operation,
    collectives,
    operations,
    total_cycles,
)
from drsformer_jax.planning.kernel_cycles import counted, kernel_cycles, kernels_in
from drsformer_jax.planning.out_of_memory import bytes_available
from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
from drsformer_jax.training.sharding import batch_sharding, make_mesh, replicated
from drsformer_jax.training.state import TrainState, create_train_state
from drsformer_jax.training.step import compile_train_step

# Floats; 1 TiB, more than any chip has.
_TOO_MANY = 2**38


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program and what the compiler says of it; everything is for one chip and one run.

    Attributes:
      operations: all that a run runs, with estimated cycles.
      argument_bytes, output_bytes, alias_bytes, scratch_bytes, code_bytes: device memory;
        `alias_bytes` of the outputs lie where donated arguments were, and the program itself lies
        in device memory, too.
      flops, bytes_accessed: by the compiler's own count, in which loop bodies count once.
      compile_seconds: on this machine.
    """

    operations: list[Operation]
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    scratch_bytes: int
    code_bytes: int
    flops: float
    bytes_accessed: float
    compile_seconds: float

    @property
    def cycles(self) -> int:
        """The estimate of a run: the compiler's own, and kernels by their schedules."""
        return total_cycles(self.operations)

    @property
    def kernel_cycles(self) -> int:
        """Of these, the kernels."""
        return total_cycles([operation for operation in self.operations if operation.is_kernel])

    @property
    def memory_bytes(self) -> int:
        """Device memory while it runs."""
        results = self.output_bytes - self.alias_bytes
        return self.argument_bytes + results + self.scratch_bytes + self.code_bytes

    @property
    def collectives(self) -> dict[str, tuple[int, int]]:
        """By kind of communication: how often, and bytes."""
        return collectives(self.operations)


def usable_memory(mesh: Mesh) -> int | None:
    """Bytes of a TPU's memory that the compiler gives a program; None if it does not say.

    It says so, to hundredths of a GiB and at once, of a program that needs more than there is.
    """
    program = jax.jit(jnp.sum, in_shardings=replicated(mesh), out_shardings=replicated(mesh))
    try:
        program.lower(jax.ShapeDtypeStruct((_TOO_MANY,), jnp.float32)).compile()
    except JaxRuntimeError as error:
        return bytes_available(str(error))
    return None


def compile_forward(config: DRSformerConfig, mesh: Mesh, batch: int, size: int) -> Program:
    """`restore` of `batch` images size x size a chip, parameters on every chip."""
    params = param_shapes(config)
    image = jax.ShapeDtypeStruct((batch * mesh.size, size, size, config.in_channels), jnp.float32)
    program = jax.jit(
        functools.partial(restore, config),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=batch_sharding(mesh),
    )
    return _compile(mesh, program, params, image)


def compile_training(
    config: DRSformerConfig, mesh: Mesh, batch: int, size: int, **settings: Any
) -> Program:
    """`training_step` of images size x size, compiled."""
    return _compile(mesh, *training_step(config, mesh, batch, (size, size), **settings))


def training_step(
    config: DRSformerConfig,
    mesh: Mesh,
    batch: int,
    size: tuple[int, int],
    *,
    optimizer_options: OptimizerOptions | None = None,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    compiler_options: dict[str, int | bool] | None = None,
) -> tuple[Any, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """The training step as train.py jits it, and the shapes of its arguments: state and batch.

    Args:
      batch: global.
      size: rows and columns of the images.
      optimizer_options: by default the paper's.
    """
    optimizer_options = optimizer_options or OptimizerOptions()
    state = training_state(config, optimizer_options, ema=ema_decay > 0)
    shape = (batch, *size, config.in_channels)
    step = compile_train_step(
        state,
        config,
        make_optimizer(optimizer_options),
        optimizer_options,
        mesh,
        accumulation_steps=accumulation_steps,
        ema_decay=ema_decay,
        compiler_options=compiler_options,
    )
    images = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in ("input", "target")}
    return step, state, images


def training_state(
    config: DRSformerConfig, optimizer_options: OptimizerOptions, *, ema: bool
) -> TrainState:
    """The shapes of a training state."""
    optimizer = make_optimizer(optimizer_options)
    state: TrainState = jax.eval_shape(
        # Parameters that are given are not drawn: the network is traced once for all states.
        lambda params: create_train_state(config, optimizer, 0, params, ema=ema),
        param_shapes(config),
    )
    return state


def training_flops(
    config: DRSformerConfig, batch: int, size: tuple[int, int], **settings: Any
) -> float:
    """Floating point operations of a training step on one device, by XLA's count.

    What is counted is the step as it is written for CPU with all blocks written out, before any
    optimisation: XLA counts the body of a loop once, and here there is none. Every block is
    computed a second time in the backward pass, as it is on TPU by default. The forms for TPU do
    more multiplications than that (products of whole 128x128 blocks); they count as what they are
    for. Nothing is compiled.

    Args:
      batch: images of the device.
      size: rows and columns of its part of an image.
      settings: of `training_step`.
    """
    config = dataclasses.replace(config, platform="cpu", unroll=True, dtype="float32")
    mesh = make_mesh(devices=jax.devices("cpu")[:1])
    step, state, images = training_step(config, mesh, batch, size, **settings)
    return float(step.lower(state, images).cost_analysis()["flops"])


def model_flops(config: DRSformerConfig, batch: int, size: tuple[int, int]) -> float:
    """What a training step of a network is said to take: three times its forward pass.

    Model FLOPs utilisation, as MaxText and the PaLM paper (appendix B) define it, counts these and
    nothing that is computed again. They are counted as in `training_flops`.
    """
    config = dataclasses.replace(config, platform="cpu", unroll=True, dtype="float32", rows=None)
    params = param_shapes(config)
    image = jax.ShapeDtypeStruct((batch, *size, config.in_channels), jnp.float32)
    forward: Any = jax.jit(functools.partial(restore, config)).lower(params, image)
    return 3 * float(forward.cost_analysis()["flops"])


def _compile(mesh: Mesh, program: Any, *arguments: Any) -> Program:
    started = time.perf_counter()
    traced = program.trace(*arguments)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    found, chip = operations(compiled.as_text()), chip_of_device(mesh.devices.flat[0].device_kind)
    if chip is not None:
        found = counted(found, kernel_cycles(kernels_in(traced.jaxpr.jaxpr), chip))
    return Program(
        found,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        float(cost.get("flops", 0)),
        float(cost.get("bytes accessed", 0)),
        seconds,
    )
