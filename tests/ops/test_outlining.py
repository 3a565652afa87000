"""Outlined functions: the same values and gradients, and calls that stay calls once compiled."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.outlining import called, outlined

on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="other compilers may inline as they like"
)


def layer(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["weight"]) + params["bias"]


def draw() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    return {"weight": rng.normal(size=(4, 4)), "bias": rng.normal(size=4)}, rng.normal(size=(3, 4))


def stack(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = function(params, x)
        return jnp.sum(jnp.sin(x))

    return apply


def calls(function: Callable[..., object]) -> list[str]:
    """The computation that each call of the compiled program runs."""
    text = jax.jit(function).lower(*draw()).compile().as_text()
    return re.findall(r" call\(.*to_apply=%?([\w.\-]+)", text)


@on_cpu
def test_a_repeated_function_is_compiled_once() -> None:
    assert len(calls(stack(layer))) == 0
    names = calls(stack(called(layer)))
    assert len(names) == 3
    # XLA may copy a computation for each of its calls, but not optimise it anew.
    assert len({re.sub(r"(\.\d+|\.clone)*$", "", name) for name in names}) == 1


@on_cpu
def test_a_gradient_is_a_call_too() -> None:
    gradient = jax.grad(stack(outlined(layer)), argnums=(0, 1))
    assert len(calls(gradient)) == 6


@on_cpu
@pytest.mark.parametrize(("is_recomputed", "forwards"), [(True, 2), (False, 1)])
def test_the_backward_pass_runs_it_again_only_if_told(is_recomputed: bool, forwards: int) -> None:
    """Of the two functions called, each three times, those that compute the hyperbolic tangent."""
    gradient = jax.grad(stack(outlined(layer, is_recomputed)), argnums=(0, 1))
    assert len(calls(gradient)) == 6
    text = jax.jit(gradient).lower(*draw()).as_text()
    functions = text.split("func.func private")
    assert sum("stablehlo.tanh" in function for function in functions) == forwards


@pytest.mark.parametrize("is_recomputed", [True, False])
def test_values_and_gradients(is_recomputed: bool) -> None:
    params, x = draw()
    actual = stack(outlined(layer, is_recomputed))
    with jax.enable_x64(True):
        expected = jax.jit(jax.value_and_grad(stack(layer), argnums=(0, 1)))(params, x)
        actual = jax.jit(jax.value_and_grad(actual, argnums=(0, 1)))(params, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-13), actual, expected)


def test_several_results_and_no_compilation_around() -> None:
    twice = called(lambda x: {"once": x, "twice": 2 * x})
    result = twice(jnp.arange(3.0))
    np.testing.assert_array_equal(result["twice"], [0, 2, 4])
