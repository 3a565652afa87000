"""Our programs, as `pairs.Worker` builds them: each function is called in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import time
import timeit
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.inputs import SEED, rainy_image, training_pair
from benchmarks.pairs import Program
from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import restore
from drsformer_jax.models.repeated import blocks_apart
from drsformer_jax.parity.random_weights import random_weights

GEMM_SIZES = {"cpu": (1024, 1536, 2048), "gpu": (4096, 8192), "tpu": (4096, 8192)}
GEMM_TRIES = 3


def choose_device(device: str, cache: str | None) -> None:
    """Sets the platform and the persistent cache, in which everything is kept; None: no cache."""
    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    jax.config.update("jax_enable_compilation_cache", cache is not None)
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compiled(function: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """The compiled function, and what is known of it then; bytes are of one device."""
    start = time.perf_counter()
    program = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    facts: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "compile_seconds": seconds,
    }
    memory = program.memory_analysis()
    if memory is not None:
        facts["scratch_bytes"] = memory.temp_size_in_bytes
        facts["argument_bytes"] = memory.argument_size_in_bytes
        facts["result_bytes"] = memory.output_size_in_bytes
    return program, facts


def _device_peak() -> dict[str, Any]:
    """Program's argument `device_peak_bytes` where the device counts its memory."""
    device = jax.devices()[0]
    if not device.memory_stats():
        return {}
    return {"device_peak_bytes": lambda: device.memory_stats()["peak_bytes_in_use"]}


def forward(
    config: DRSformerConfig, batch: int, size: int, device: str, cache: str | None
) -> Program:
    """`restore` as `Derainer` compiles it, from an image on the device to one on the device."""
    choose_device(device, cache)
    from drsformer_jax.inference.forward import compiled_for_inference

    params = jax.device_put(blocks_apart(config, random_weights(config, SEED).params))
    image = jax.device_put(rainy_image(batch, size))
    program, facts = compiled(
        compiled_for_inference(functools.partial(restore, config)), params, image
    )
    last: list[jax.Array] = []

    def run() -> None:
        last[:] = [program(params, image).block_until_ready()]

    return Program(run, lambda: {"restored": np.asarray(last[0])}, facts, **_device_peak())


def training_step(
    config: DRSformerConfig,
    recipe: dict[str, float],
    batch: int,
    size: int,
    device: str,
    cache: str | None,
) -> Program:
    """The program that train.py runs: loss, gradient, clipping, AdamW. Each run is one step on."""
    choose_device(device, cache)
    from drsformer_jax.training.cpu import keep_cpu_memory, share_one_heap
    from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
    from drsformer_jax.training.sharding import make_mesh, shard_batch, state_sharding
    from drsformer_jax.training.state import TrainState
    from drsformer_jax.training.step import compile_train_step

    share_one_heap()
    keep_cpu_memory()
    mesh = make_mesh()
    options = OptimizerOptions(**recipe)  # type: ignore[arg-type]
    optimizer = make_optimizer(options)
    params = jax.tree.map(jnp.asarray, random_weights(config, SEED).params)
    state = TrainState(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(params))
    state = jax.device_put(state, state_sharding(state, mesh))
    pair = shard_batch(training_pair(batch, size), mesh)
    step = compile_train_step(state, config, optimizer, options, mesh)
    program, facts = compiled(step, state, pair)
    del params
    now: dict[str, Any] = {"state": state}
    del state

    def run() -> None:
        now["state"], now["metrics"] = program(now["state"], pair)
        jax.block_until_ready(now["state"])

    def output() -> dict[str, np.ndarray]:
        return {name: np.asarray(now["metrics"][name]) for name in ("loss", "gradient_norm")}

    return Program(run, output, facts, **_device_peak())


def matrix_product(dtype: str, precision: str, device: str) -> Program:
    """One square matrix product, of the size at which the device is fastest.

    Facts: "size", and "flops" of one run.
    """
    choose_device(device, None)

    def product(size: int) -> Callable[[], None]:
        # On the device from the start: what is measured is arithmetic.
        a = jax.random.normal(jax.random.key(SEED), (size, size), jnp.dtype(dtype))
        multiply = jax.jit(
            lambda a: jnp.dot(a, a, precision=None if precision == "default" else precision)
        )

        def run() -> None:
            multiply(a).block_until_ready()

        return run

    def rate(size: int) -> float:
        # The fastest of some runs; in the first one it is compiled.
        seconds = timeit.repeat(product(size), number=1, repeat=1 + GEMM_TRIES)
        return 2 * size**3 / min(seconds)

    size = max(GEMM_SIZES[jax.default_backend()], key=rate)
    return Program(product(size), facts={"size": size, "flops": 2 * size**3})


def network(preset: str, dtype: str, precision: str, **execution: Any) -> DRSformerConfig:
    """A preset with execution options; None leaves one as it is."""
    given = {name: value for name, value in execution.items() if value is not None}
    return dataclasses.replace(PRESETS[preset], dtype=dtype, precision=precision, **given)
