"""MSFN in blocks against the module's layers, one after the other."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from drsformer_jax.models.feed_forward import MixedScaleFeedForward
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu.feed_forward import in_squares


@pytest.mark.parametrize(
    ("hidden", "use_bias", "phases", "parts", "size", "tolerances"),
    # One block and several; an even and an odd number of channels, whose last pair is a mixed one.
    [
        (5, True, 1, 1, 4, {"float64": 1e-12}),
        (6, False, 1, 3, 4, {"float64": 1e-12, "float32": 1e-5}),
        (7, True, 2, 2, 16, {"float64": 1e-12, "float32": 1e-5}),
        (1, False, 2, 1, 8, {"float64": 1e-12}),
        (4, False, 1, 2, 8, {"float64": 1e-12}),
    ],
)
def test_values_and_gradients(
    hidden: int, use_bias: bool, phases: int, parts: int, size: int, tolerances: dict[str, float]
) -> None:
    """Against the layers in float64."""
    rng = np.random.default_rng(hidden)
    shape = (2, 3, 6, 4)
    module = MixedScaleFeedForward(hidden, use_bias)
    x, cotangent = (np.float32(rng.normal(size=shape)) for _ in range(2))
    shapes = jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"]
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)

    def layer_by_layer(params: Any, x: jax.Array) -> jax.Array:
        return module.apply({"params": params}, Image(x)).array

    def in_blocks(params: Any, x: jax.Array) -> jax.Array:
        return in_squares(Image(x), params, phases=phases, parts=parts, size=size).array

    def results(function: Any, dtype: str) -> Any:
        def run(params: Any, x: jax.Array, cotangent: jax.Array) -> Any:
            y, pull_back = jax.vjp(function, params, x)
            return y, pull_back(cotangent)

        given = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x, cotangent))
        return jax.jit(run)(*given)

    with jax.enable_x64(True):
        wanted = results(layer_by_layer, "float64")
        for dtype, tolerance in tolerances.items():
            found = results(in_blocks, dtype)
            for actual, expected in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
                assert actual.dtype == dtype
                limit = tolerance * max(1, float(np.abs(expected).max()))
                np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)
