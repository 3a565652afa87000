"""MSFN in blocks against the module's layers, one after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models.feed_forward import MixedScaleFeedForward
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu.feed_forward import in_squares


@pytest.mark.parametrize(
    ("hidden", "use_bias", "phases", "parts", "size", "dtype", "tolerance"),
    # One block and several; an even and an odd number of channels, whose last pair is a mixed one.
    [
        (5, True, 1, 1, 4, jnp.float64, 1e-12),
        (6, False, 1, 3, 4, jnp.float64, 1e-12),
        (7, True, 2, 2, 16, jnp.float64, 1e-12),
        (1, False, 2, 1, 8, jnp.float64, 1e-12),
        (4, False, 1, 2, 8, jnp.float64, 1e-12),
        (6, False, 1, 3, 4, jnp.float32, 1e-5),
        (7, True, 2, 2, 16, jnp.float32, 1e-5),
    ],
)
def test_values_and_gradients(
    hidden: int, use_bias: bool, phases: int, parts: int, size: int, dtype: Any, tolerance: float
) -> None:
    rng = np.random.default_rng(hidden)
    shape = (2, 3, 6, 4)
    with jax.enable_x64(True):
        x, cotangent = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
        module = MixedScaleFeedForward(hidden, use_bias)
        shapes = jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"]
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), shapes)

        def layer_by_layer(params: Any, x: jax.Array) -> jax.Array:
            return module.apply({"params": params}, Image(x)).array

        def in_blocks(params: Any, x: jax.Array) -> jax.Array:
            return in_squares(Image(x), params, phases=phases, parts=parts, size=size).array

        results = []
        for function in (in_blocks, layer_by_layer):

            def run(params: Any, x: jax.Array, function: Any = function) -> Any:
                y, pull_back = jax.vjp(function, params, x)
                return y, pull_back(cotangent)

            results.append(jax.jit(run)(params, x))
    for actual, expected in zip(*map(jax.tree.leaves, results), strict=True):
        assert actual.dtype == expected.dtype == dtype
        limit = tolerance * max(1, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)
