"""One update: its pieces against their definitions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.toy_training import toy_init_params

from drsformer_jax.training.config import LARGEST_SEED
from drsformer_jax.training.optimizer import (
    OptimizerOptions,
    learning_rate_schedule,
    make_optimizer,
)
from drsformer_jax.training.state import create_train_state, seed_key
from drsformer_jax.training.step import batch_gradient, train_step

pytestmark = pytest.mark.usefixtures("toy_network")
CONFIG: Any = None  # the toy network has none


@pytest.fixture
def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.random((8, 4, 4, 3))) for name in ("input", "target")}


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulated_gradient_is_the_whole_batchs(parts: int) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batch = {name: jnp.asarray(rng.random((8, 4, 4, 3))) for name in ("input", "target")}
        params = jax.tree.map(
            lambda x: x.astype(jnp.float64), toy_init_params(None, jax.random.key(0))
        )
        whole = batch_gradient(CONFIG, params, batch, 1)
        accumulated = batch_gradient(CONFIG, params, batch, parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(accumulated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_metrics_are_what_they_are_called(batch: dict[str, jax.Array]) -> None:
    options = OptimizerOptions(learning_rate=0.5, warmup_steps=10)
    optimizer = make_optimizer(options)
    state = create_train_state(CONFIG, optimizer, seed=0)
    schedule = learning_rate_schedule(options)
    new, metrics = train_step(state, batch, config=CONFIG, optimizer=optimizer, schedule=schedule)
    output = batch["input"] @ state.params["mix"] + state.params["offset"] + 0.1
    expected = {
        "loss": jnp.abs(output - batch["target"]).mean(),
        "output_change": jnp.abs(output - batch["input"]).mean(),
        "target_change": jnp.abs(batch["target"] - batch["input"]).mean(),
        "learning_rate": 0.05,
        "gradient_norm": optax.tree.norm(batch_gradient(CONFIG, state.params, batch, 1)[0]),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    assert int(new.step) == 1


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_a_seed_of_32_bits_is_jaxs(seed: int) -> None:
    data = jax.random.key_data(seed_key(seed))
    np.testing.assert_array_equal(data, jax.random.key_data(jax.random.key(seed)))


def test_every_bit_of_a_seed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "drsformer_jax.training.state.init_params", lambda config, key: {"key": key}
    )
    optimizer = optax.identity()
    found = set()
    for seed in (7, *(7 + 2**bit for bit in range(32, 63)), LARGEST_SEED):
        key = create_train_state(CONFIG, optimizer, seed).params["key"]
        found.add(tuple(jax.random.key_data(key).tolist()))
    assert len(found) == 33


def test_moving_average(batch: dict[str, jax.Array]) -> None:
    optimizer = make_optimizer(OptimizerOptions(learning_rate=0.1))
    state = create_train_state(CONFIG, optimizer, seed=0, ema=True)
    new, _ = train_step(
        state,
        batch,
        config=CONFIG,
        optimizer=optimizer,
        schedule=learning_rate_schedule(OptimizerOptions()),
        ema_decay=0.75,
    )
    expected = 0.75 * state.params["mix"] + 0.25 * new.params["mix"]
    np.testing.assert_allclose(new.ema_params["mix"], expected, rtol=1e-6)
    assert new.best_params is new.ema_params
