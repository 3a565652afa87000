"""The optimiser against PyTorch's own and against the schedule of the paper's recipe."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from drsformer_jax.training.optimizer import (
    OptimizerOptions,
    clip_by_global_norm,
    learning_rate_schedule,
    make_optimizer,
)


@pytest.mark.parametrize(
    ("count", "rate"),
    [
        (0, 3e-4),
        (91_999, 3e-4),
        (92_000, 3e-4),
        (92_000 + 104_000, (3e-4 + 1e-6) / 2),
        (299_999, 1e-6 + (3e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * 207_999 / 208_000))),
        (400_000, 1e-6),
    ],
)
def test_schedule_of_the_recipe(count: int, rate: float) -> None:
    assert float(learning_rate_schedule(OptimizerOptions())(count)) == pytest.approx(rate, rel=1e-5)


def test_warm_up_is_linear_and_meets_the_held_rate() -> None:
    schedule = learning_rate_schedule(OptimizerOptions(learning_rate=1.0, warmup_steps=4))
    rates = [float(schedule(count)) for count in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("scale", [1e-4, 1.0, 0.01])
def test_clipping_is_torchs(scale: float) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape) * scale for shape in [(3, 4), (5,)]]
    parameters = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient.copy())
    torch.nn.utils.clip_grad_norm_(parameters, 0.01)
    with jax.enable_x64(True):
        transformation = clip_by_global_norm(0.01)
        clipped, _ = transformation.update(
            [jnp.asarray(g) for g in gradients], transformation.init(gradients)
        )
    for ours, parameter in zip(clipped, parameters, strict=True):
        np.testing.assert_allclose(ours, parameter.grad.numpy(), rtol=1e-14)


def test_adamw_with_schedule_and_clipping_follows_torch() -> None:
    options = OptimizerOptions(
        learning_rate=1e-2, final_learning_rate=1e-4, hold_steps=5, decay_steps=15
    )
    rng = np.random.default_rng(1)
    start = rng.normal(size=(6, 7))
    gradients = rng.normal(size=(25, 6, 7)) * 0.003  # some are clipped, some are not
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=1e-4)

    def rate(count: int) -> float:
        done = min(max(count - 5, 0) / 15, 1)
        return 1e-4 + (1e-2 - 1e-4) * 0.5 * (1 + math.cos(math.pi * done))

    with jax.enable_x64(True):
        optimizer = make_optimizer(options)
        params = jnp.asarray(start)
        state = optimizer.init(params)
        for count, gradient in enumerate(gradients):
            for group in reference.param_groups:
                group["lr"] = rate(count)
            parameter.grad = torch.from_numpy(gradient.copy())
            torch.nn.utils.clip_grad_norm_([parameter], 0.01)
            reference.step()
            updates, state = optimizer.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params, parameter.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.0},
        {"hold_steps": -1},
        {"clip_norm": -1.0},
        {"b2": 1.0},
        {"weight_decay": -1.0},
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        OptimizerOptions(**changes)  # type: ignore[arg-type]
