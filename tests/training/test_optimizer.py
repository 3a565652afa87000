"""The optimiser against PyTorch's own and against the schedule of the paper's recipe."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params
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


MUON = OptimizerOptions("muon", learning_rate=1.0, weight_decay=0, clip_norm=0, hold_steps=9)


def updates_of(params: Any, gradients: Any, options: OptimizerOptions = MUON) -> Any:
    optimizer = make_optimizer(options)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def normal_like(tree: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


@pytest.mark.parametrize(
    ("shape", "inputs"), [((1, 1, 8, 24), 8), ((3, 3, 4, 6), 36), ((16, 5), 16)]
)
def test_muon_makes_a_kernels_update_orthogonal(shape: tuple[int, ...], inputs: int) -> None:
    params = {"conv": {"kernel": jnp.zeros(shape)}}
    update = np.asarray(updates_of(params, normal_like(params))["conv"]["kernel"])
    values = np.linalg.svd(update.reshape(inputs, -1), compute_uv=False)
    # The iteration ends between 0.7 and 1.2; an update's root mean square is then about 0.2.
    values /= 0.2 * math.sqrt(max(inputs, shape[-1]))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_muon_takes_each_of_equal_blocks_for_itself() -> None:
    params = {"conv": {"kernel": jnp.zeros((3, 1, 1, 8, 12))}}
    gradients = normal_like(params)
    together = updates_of(params, gradients)["conv"]["kernel"]
    for number in range(3):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], (params, gradients))
        alone = updates_of(*one)["conv"]["kernel"]
        np.testing.assert_allclose(together[number], alone, rtol=0, atol=1e-5)


def test_what_is_no_matrix_is_left_to_adam() -> None:
    config = dataclasses.replace(PRESETS["tiny"], bias=True, use_mefc=True)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    state = jax.eval_shape(make_optimizer(MUON).init, params)[1].inner_states
    paths = jax.tree_util.tree_flatten_with_path(state["adam"].inner_state[0].mu)[0]
    left = {tuple(str(key.key) for key in path[-2:]) for path, _ in paths}
    kernels = {module for module, parameter in left if parameter == "kernel"}
    assert {name for name in kernels if not name.startswith("depthwise")} == {
        *("patch_embed", "output", "qkv_dwconv"),
        *("dwconv3x3", "dwconv5x5", "dwconv3x3_1", "dwconv5x5_1"),
    }
    of_muon = jax.tree_util.tree_flatten_with_path(state["muon"].inner_state[0].mu)[0]
    assert {str(path[-1].key) for path, _ in of_muon} == {"kernel"}
    assert len(of_muon) + len(paths) == len(jax.tree.leaves(params))


def test_muon_decays_every_parameter() -> None:
    params = {"conv": {"kernel": jnp.ones((1, 1, 8, 8)), "bias": jnp.ones(8)}}
    decayed = dataclasses.replace(MUON, weight_decay=0.5)
    gradients = normal_like(params)
    plain, other = (updates_of(params, gradients, o) for o in (MUON, decayed))
    for one, less in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(less, one - 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "sgd"},
        {"learning_rate": 0.0},
        {"hold_steps": -1},
        {"clip_norm": -1.0},
        {"b2": 1.0},
        {"weight_decay": -1.0},
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        OptimizerOptions(**changes)
