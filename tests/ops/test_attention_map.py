"""The mixture of top-k softmaxes against sorting each row and keeping the first k entries."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.attention_map import (
    masked_softmax_mixture,
    masks_by_rank,
    masks_by_top_k,
    top_k_masks,
)
from drsformer_jax.training.step import CPU_OPTIONS

KS = (4, 6, 6, 7)
WEIGHTS = np.array([0.2, -0.3, 0.5, 1.1])

# 2 maps of 3 rows of 9, with every kind of tie.
ROWS = np.array(
    [
        [
            [0.3, -1.2, 2.0, 0.1, 0.9, -0.4, 1.1, -2.0, 0.0],
            [5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -5.0],
            [0.5] * 9,
        ],
        [
            [0.0] * 9,
            [-1.0, 0.0, -0.0, 0.0, -1.0, 0.0, -1.0, 0.0, -1.0],
            [-300.0, 400.0, 1.0, 2.0, 2.0, 1.0, 2.0, 1.0, 400.0],
        ],
    ]
)


def kept_entries(row: np.ndarray, k: int) -> list[int]:
    """The k largest of a row; of equal ones those that stand first."""
    return sorted(range(len(row)), key=lambda column: (-row[column], column))[:k]


def definition(
    logits: np.ndarray, weights: np.ndarray, ks: Sequence[int], cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mixture, its gradient for the logits and for the weights of the branches."""
    y, logits_gradient = np.zeros_like(logits), np.zeros_like(logits)
    weights_gradient = np.zeros_like(weights)
    for row in np.ndindex(logits.shape[:-1]):
        for branch, k in enumerate(ks):
            kept = kept_entries(logits[row], k)
            exponentials = np.exp(logits[row][kept] - logits[row][kept].max())
            softmax = exponentials / exponentials.sum()
            y[row][kept] += weights[branch] * softmax
            along = softmax @ cotangent[row][kept]
            logits_gradient[row][kept] += weights[branch] * softmax * (cotangent[row][kept] - along)
            weights_gradient[branch] += along
    return y, logits_gradient, weights_gradient


def mixture(logits: jax.Array, weights: jax.Array) -> jax.Array:
    return masked_softmax_mixture(logits, list(weights), top_k_masks(logits, KS))


@jax.jit
def value_and_gradients(
    logits: jax.Array, weights: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, ...]:
    y, pull_back = jax.vjp(mixture, logits, weights)
    return (y, *pull_back(cotangent))


@pytest.mark.parametrize(
    "logits", [ROWS, ROWS[0, :1], np.random.default_rng(0).normal(size=(3, 9))]
)
def test_values_and_gradients(logits: np.ndarray) -> None:
    cotangent = np.random.default_rng(1).normal(size=logits.shape)
    with jax.enable_x64(True):
        actual = value_and_gradients(logits, WEIGHTS, cotangent)
    for result, expected in zip(actual, definition(logits, WEIGHTS, KS, cotangent), strict=True):
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 5, 8, 9])
def test_mask_keeps_exactly_k_and_the_first_of_equal_ones(k: int) -> None:
    (mask,) = jax.jit(top_k_masks, static_argnums=1)(ROWS, (k,))
    mask = np.asarray(mask)
    assert mask.dtype == bool
    for row in np.ndindex(ROWS.shape[:-1]):
        assert np.flatnonzero(mask[row]).tolist() == sorted(kept_entries(ROWS[row], k))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [ROWS, np.random.default_rng(3).integers(0, 20, (2, 3, 48))])
def test_both_forms_make_the_same_masks(rows: np.ndarray, dtype: type) -> None:
    """Only one of them runs on a platform; zeros have one sign, as `top_k_masks` leaves them."""
    rows = rows.astype(dtype) + 0.0
    ks = tuple(range(1, rows.shape[-1] + 1))
    with jax.enable_x64(True):
        by_top_k = jax.jit(masks_by_top_k, static_argnums=1)(rows, ks)
        by_rank = jax.jit(masks_by_rank, static_argnums=1)(rows, ks)
    np.testing.assert_array_equal(np.stack(by_rank), np.stack(by_top_k))
    assert [int(mask.sum()) for mask in by_rank] == [k * rows[..., 0].size for k in ks]


def test_sums_in_any_order_rank_each_logit_as_one_number() -> None:
    """Logits that are computed on the way must not be computed twice, rounded otherwise."""
    random = np.random.default_rng(3)
    products = random.normal(size=(2, 16, 16)).astype(np.float32)
    lengths = random.uniform(0.1, 9, (2, 2, 16)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=CPU_OPTIONS)
    def masks(products: jax.Array, lengths: jax.Array, scale: jax.Array) -> list[jax.Array]:
        cosines = products / lengths[0][:, :, None] / lengths[1][:, None, :]
        return top_k_masks(cosines * scale, range(1, 17))

    for k, mask in enumerate(masks(products, lengths, jnp.float32(1.7)), 1):
        np.testing.assert_array_equal(mask.sum(-1), k)


def test_dropped_entries_are_exactly_zero_and_have_no_gradient() -> None:
    largest = max(KS)
    logits, cotangent = (
        np.float32(ROWS),
        np.float32(np.random.default_rng(2).normal(size=ROWS.shape)),
    )
    y, gradient, _ = value_and_gradients(logits, np.float32(WEIGHTS), cotangent)
    assert y.dtype == jnp.float32
    for row in np.ndindex(ROWS.shape[:-1]):
        dropped = sorted(set(range(ROWS.shape[-1])) - set(kept_entries(ROWS[row], largest)))
        assert len(dropped) == ROWS.shape[-1] - largest
        assert (np.asarray(y[row])[dropped] == 0).all()
        assert (np.asarray(gradient[row])[dropped] == 0).all()
    assert np.isfinite(y).all()
    assert np.isfinite(gradient).all()


def test_one_column() -> None:
    logits, weights = jnp.zeros((2, 1)), [jnp.float32(0.3), jnp.float32(0.4)]
    y = masked_softmax_mixture(logits, weights, top_k_masks(logits, (1, 1)))
    np.testing.assert_allclose(y, np.full((2, 1), 0.7), rtol=1e-6)


@pytest.mark.parametrize(
    ("platform", "lowering", "rankings"), [("cpu", "cpu", 0), ("gpu", "cuda", 1), ("tpu", "tpu", 1)]
)
def test_one_top_k_and_nothing_that_scatters(platform: str, lowering: str, rankings: int) -> None:
    """A scatter would stop all chips in every block; gathers and sorts come with one."""

    def loss(logits: jax.Array, weights: jax.Array) -> jax.Array:
        masks = top_k_masks(logits, KS, platform)
        return jnp.sum(masked_softmax_mixture(logits, list(weights), masks) ** 2)

    arguments = (jnp.zeros((2, 9, 9)), jnp.zeros(4))
    forward = jax.jit(loss).trace(*arguments)
    backward = jax.jit(jax.grad(loss)).trace(*arguments)
    for traced in (forward, backward):
        names = str(traced.jaxpr)
        assert names.count("top_k[") == rankings
        lowered = traced.lower(lowering_platforms=(lowering,)).as_text()
        assert lowered.count("chlo.top_k") == rankings
        for forbidden in ("scatter", "gather", "sort["):
            assert forbidden not in names
            assert forbidden not in lowered
