"""MEFC's kernels, interpreted, against its form in blocks in float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import lanes, mefc, mefc_kernel

FOR_TPU = Execution(platform="tpu")
CHANNELS = 3


def example(batch: int, height: int, steps: int, kernels: Any) -> tuple[Any, Any, Any]:
    """State, weights of the experts and parameters; kernels: separable ones and dilated ones."""
    rng = np.random.default_rng(0)
    experts = {}
    for i, size in enumerate((1, *kernels[0], *kernels[1])):
        layers = {"depthwise0": (size, size, 1), "pointwise0": (1, 1, CHANNELS)}
        if i <= len(kernels[0]):
            layers |= {"depthwise1": (size, size, 1), "pointwise1": (1, 1, CHANNELS)}
        experts[f"expert{i}"] = {
            name: {"kernel": rng.normal(0, 0.5, (steps, *shape, CHANNELS))}
            for name, shape in layers.items()
        }
    count = len(experts) + 1
    experts["out"] = {"kernel": rng.normal(0, 0.5, (steps, 1, 1, CHANNELS * count, CHANNELS))}
    state = np.maximum(rng.normal(size=(batch, CHANNELS, height, 8)), 0)
    return state, rng.uniform(0.1, 1, (batch, steps, count)), experts


def results(form: Any, arguments: Any, dtype: Any) -> Any:
    """Value and gradients."""

    def run(state: jax.Array, weights: jax.Array, params: Any) -> Any:
        def value(*arguments: Any) -> jax.Array:
            return form(Image(arguments[0], FOR_TPU), *arguments[1:]).array

        y, pull_back = jax.vjp(value, state, weights, params)
        cotangent = np.random.default_rng(1).normal(size=y.shape)
        return y, pull_back(jnp.asarray(cotangent, y.dtype))

    return jax.jit(run)(*jax.tree.map(lambda x: jnp.asarray(x, dtype), arguments))


def cut_to(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast memory that holds so many rows."""

    def bytes_of(plan: Any, _: int) -> int:
        return 0 if plan.tiles.height <= strip else 2**40

    monkeypatch.setattr(mefc_kernel, "_bytes_of", bytes_of)


def compare(batch: int, height: int, steps: int, kernels: Any) -> None:
    arguments = example(batch, height, steps, kernels)
    assert mefc_kernel.why_not(Image(jnp.float32(arguments[0]), FOR_TPU), *arguments[1:]) is None
    with jax.enable_x64(True):
        expected = results(functools.partial(mefc.mixture_by_blocks, size=16), arguments, "float64")
    with lanes.interpreting():
        actual = results(mefc_kernel.mixture_by_kernel, arguments, "float32")
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.abs(other).max()))


@pytest.mark.parametrize(
    ("batch", "height", "strip", "steps"),
    # The whole image; strips, two images in the lanes.
    [(1, 8, 8, 2), (2, 16, 8, 1)],
)
def test_values_and_gradients(
    batch: int, height: int, strip: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_to(strip, monkeypatch)
    compare(batch, height, steps, ((3,), (3,)))


@pytest.mark.slow  # their sizes are data of the kernel
@pytest.mark.parametrize(("batch", "strip"), [(3, 8), (1, 16)])
def test_all_experts(batch: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_to(strip, monkeypatch)
    compare(batch, 16, 2, ((3, 5, 7), (3, 5, 7)))


def test_bfloat16_images_have_float32_gradients_of_parameters() -> None:
    state, *others = jax.tree.map(jnp.float32, example(1, 8, 1, ((3,), (3,))))

    def loss(state: jax.Array, *others: Any) -> jax.Array:
        return jnp.sum(mefc_kernel.mixture_by_kernel(Image(state, FOR_TPU), *others).array)

    gradients = jax.eval_shape(
        jax.grad(loss, argnums=(0, 1, 2)), state.astype(jnp.bfloat16), *others
    )
    assert gradients[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients[1:])} == {jnp.dtype("float32")}


def test_why_not() -> None:
    def reason(shape: tuple[int, ...], dtype: str, vmem: int = 128) -> str | None:
        image = Image(jax.ShapeDtypeStruct(shape, dtype), Execution(platform="tpu", vmem=vmem))
        _, *others = example(1, 8, 1, ((3, 5, 7), (3, 5, 7)))
        return mefc_kernel.why_not(image, *others)

    assert reason((4, 96, 128, 128), "bfloat16") is None
    assert reason((1, 48, 328, 488), "float32") is None
    assert reason((1, 48, 128, 128), "float64") == "float64 activations"
    assert reason((1, 129, 8, 8), "float32") == "129 channels, more than 128"
    assert reason((1, 48, 8, 12), "float32") == "12 columns, which are no multiple of 8"
    assert "no strip of 8192 columns" in str(reason((1, 48, 128, 8192), "float32"))
