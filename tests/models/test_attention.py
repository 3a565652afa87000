"""Top-k sparse attention against the PyTorch module, and what its parts promise."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from reference.parity import (
    assert_trees_close,
    gradients_of,
    part_tree,
    torch_results,
    value_and_gradients,
    weights_of,
)
from reference.perturbed import perturb
from reference.small import on_image

from drsformer_jax.models.attention import TopKSparseAttention, branch_sizes
from drsformer_jax.ops.attention_map import cosines_between, l2_norm
from drsformer_jax.ops.image import Image
from drsformer_jax.parity.torch_drsformer import Attention


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(48, (24, 32, 36, 38)), (96, (48, 64, 72, 76)), (2, (1, 1, 1, 1)), (5, (2, 3, 3, 4))],
)
def test_branch_sizes(channels: int, expected: tuple[int, ...]) -> None:
    assert branch_sizes(channels) == expected


def test_l2_norm_values() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=7), np.zeros(7), 1e-13 * rng.normal(size=7)])
    with jax.enable_x64(True):
        norm = l2_norm(jnp.asarray(x))
    np.testing.assert_allclose(norm, np.maximum(np.linalg.norm(x, axis=-1), 1e-12), rtol=1e-14)


def test_l2_norm_gradient() -> None:
    """x / ||x||; zero where x is zero."""
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(3, 7)), rng.normal(size=3)
    x[1] = 0
    with jax.enable_x64(True):
        gradient = jax.jit(lambda x, c: jax.vjp(l2_norm, x)[1](c)[0])(x, cotangent)
    expected = cotangent[:, None] * x / np.maximum(np.linalg.norm(x, axis=-1)[:, None], 1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=0)


# 10 channels and 2 heads: 5 a head, for which no ratio gives a whole number.
@pytest.mark.parametrize(("channels", "heads", "bias"), [(10, 2, False), (9, 3, True)])
def test_agrees_with_pytorch(channels: int, heads: int, bias: bool) -> None:
    reference = perturb(Attention(channels, heads, bias), seed=0).double()
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, 2, channels, 5, 6))
    expected, x_gradient = torch_results(reference, x, cotangent)
    module = TopKSparseAttention(heads, use_bias=bias)
    with jax.enable_x64(True):
        function = value_and_gradients(on_image(module))
        actual = function(part_tree(weights_of(reference)), x, cotangent)
    gradients = part_tree(gradients_of(reference))
    assert_trees_close(actual, (expected, gradients, x_gradient), 1e-11)


class AttentionMap(TopKSparseAttention):
    """The map that is applied to the values, alone."""

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array) -> jax.Array:
        image = Image(query)
        return self.attention_map(cosines_between(image, Image(key), self.heads), image.how)


def test_map_of_bfloat16_is_computed_in_float32_from_the_first_step() -> None:
    rng = np.random.default_rng(0)
    query, key = jnp.asarray(rng.normal(size=(2, 1, 8, 5, 6)), jnp.bfloat16)
    params = part_tree(weights_of(perturb(Attention(8, 2, False), seed=0)))
    attention_map = jax.jit(functools.partial(AttentionMap(2).apply, {"params": params}))
    actual = attention_map(query, key)
    assert actual.dtype == np.float32
    assert actual.shape == (1, 2, 4, 4)
    expected = attention_map(query.astype(jnp.float32), key.astype(jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_branch_weights_start_at_a_fifth_and_temperature_at_one() -> None:
    module = TopKSparseAttention(2)
    x = jnp.zeros((1, 8, 4, 4))
    params = jax.jit(module.init)(jax.random.key(0), Image(x))["params"]
    np.testing.assert_array_equal(params["temperature"], np.ones((2, 1, 1)))
    for branch in ("attn1", "attn2", "attn3", "attn4"):
        np.testing.assert_array_equal(params[branch], np.float32([0.2]))
