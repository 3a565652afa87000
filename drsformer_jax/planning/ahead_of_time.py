"""Compiles forward pass and training step for TPUs that this machine does not have."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import init_params, restore
from drsformer_jax.planning.compiled_text import (
    Operation,
    collectives,
    operations,
    total_cycles,
)
from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
from drsformer_jax.training.sharding import batch_sharding, make_mesh, replicated
from drsformer_jax.training.state import create_train_state
from drsformer_jax.training.step import compile_train_step

# Cycles a second. Estimates of large matrix products approach 131,072 FLOP a cycle on v5e and
# 524,288 on v6e; with the 197 and 918 TFLOP/s in bfloat16 of their data sheets these clocks follow.
CLOCK_HZ = {"v5e": 1.5e9, "v6e": 1.75e9}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program and what the compiler says of it; everything is for one chip and one run.

    Attributes:
      operations: all that a run runs, with estimated cycles.
      argument_bytes, output_bytes, alias_bytes, scratch_bytes: device memory; `alias_bytes` of the
        outputs lie where donated arguments were.
      flops, bytes_accessed: by the compiler's own count, in which loop bodies count once.
      compile_seconds: on this machine.
    """

    operations: list[Operation]
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    scratch_bytes: int
    flops: float
    bytes_accessed: float
    compile_seconds: float

    @property
    def cycles(self) -> int:
        """The compiler's estimate of a run."""
        return total_cycles(self.operations)

    @property
    def memory_bytes(self) -> int:
        """Device memory while it runs."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.scratch_bytes

    @property
    def collectives(self) -> dict[str, tuple[int, int]]:
        """By kind of communication: how often, and bytes."""
        return collectives(self.operations)


def tpu_mesh(topology: str, chips: int | None = None) -> Mesh:
    """The "data" mesh over the chips of a TPU topology, such as "v5e:4x4".

    Args:
      chips: the first so many only.

    Raises:
      UserError: libtpu is not installed, or does not know the topology.
    """
    # Without these libtpu looks for the machine's own TPU, and for others that compile.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # of the plugin: what it raises is not documented
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"no compiler for the topology {topology!r} ({reason}): "
            "pip install 'drsformer_jax[tpu]', and name one such as v5e:4x4"
        ) from error
    devices = description.devices[:chips]
    return make_mesh(devices=devices)


def compile_forward(config: DRSformerConfig, mesh: Mesh, batch: int, size: int) -> Program:
    """`restore` of `batch` images size x size a chip, parameters on every chip."""
    params = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    image = jax.ShapeDtypeStruct((batch * mesh.size, size, size, config.in_channels), jnp.float32)
    program = jax.jit(
        functools.partial(restore, config),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=batch_sharding(mesh),
    )
    return _compile(program, params, image)


def compile_training(
    config: DRSformerConfig,
    mesh: Mesh,
    batch: int,
    size: int,
    compiler_options: dict[str, int | bool] | None = None,
) -> Program:
    """The training step on `batch` images size x size a chip."""
    options = OptimizerOptions()
    optimizer = make_optimizer(options)
    state = jax.eval_shape(lambda: create_train_state(config, optimizer, 0))
    shape = (batch * mesh.size, size, size, config.in_channels)
    images = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in ("input", "target")}
    step: Any = compile_train_step(
        state, config, optimizer, options, mesh, compiler_options=compiler_options
    )
    return _compile(step, state, images)


def _compile(program: Any, *arguments: Any) -> Program:
    started = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    seconds = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Program(
        operations(compiled.as_text()),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        float(cost.get("flops", 0)),
        float(cost.get("bytes accessed", 0)),
        seconds,
    )
