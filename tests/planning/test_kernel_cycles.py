"""Kernels found in programs, and their cycles."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl

from drsformer_jax.planning.chips import CHIPS
from drsformer_jax.planning.compiled_text import Operation
from drsformer_jax.planning.kernel_cycles import counted, kernel_cycles, kernels_in

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'drsformer_jax[tpu]'",
)


def kernel(name: str) -> Any:
    """Four steps, each of which adds up a block of 8x128 numbers 100 times."""

    def body(x: Any, y: Any) -> None:
        y[...] = lax.fori_loop(0, 100, lambda _, total: total + x[...], jnp.zeros((8, 128)))

    block = pl.BlockSpec((8, 128), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((32, 128), jnp.float32)
    return pl.pallas_call(
        body, grid=(4,), in_specs=[block], out_specs=block, out_shape=shape, name=name
    )


def program(x: jax.Array) -> jax.Array:
    """One kernel twice, inside what JAX differentiates and repeats, and another."""
    inside = jax.checkpoint(lambda x: kernel("adds")(x), prevent_cse=False)
    x, _ = lax.scan(lambda x, _: (inside(x), None), x, length=3)
    return kernel("adds")(x) + jax.jit(kernel("adds_too"))(x)


def test_kernels_are_found_wherever_they_are() -> None:
    found = kernels_in(jax.make_jaxpr(program)(jnp.ones((32, 128))).jaxpr)
    assert sorted(found) == ["adds", "adds_too"]
    assert kernel_cycles({}, CHIPS["v5e"]) == {}


def test_operations_get_the_cycles_of_their_kernels() -> None:
    sources = (
        "jit(f)/ffn/adds/pallas_call",
        "jit(f)/transpose(jvp(adds_too))/pallas_call",
        "jit(f)/ffn/adds/transpose",
    )
    found = [Operation("name.1", "custom-call", source, 4, 0, 8) for source in sources]
    found = counted(found, {"adds": 10, "adds_too": 20})
    assert [(one.total_cycles, one.is_kernel) for one in found] == [
        (40, True),
        (80, True),
        (0, False),
    ]


@needs_libtpu
def test_cycles_of_a_schedule() -> None:
    """At least an addition a round; a hundred kernels of nothing would not take so many."""
    kernels = kernels_in(jax.make_jaxpr(program)(jnp.ones((32, 128))).jaxpr)
    found = kernel_cycles(kernels, CHIPS["v5e"])
    assert found.keys() == kernels.keys()
    assert all(400 < cycles < 10_000 for cycles in found.values())
