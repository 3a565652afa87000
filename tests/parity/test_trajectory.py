"""The course of training in both programs, and that each part of the recipe would be missed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from drsformer_jax.models.config import DRSformerConfig  # noqa: E402
from drsformer_jax.parity import torch_training  # noqa: E402
from drsformer_jax.parity.torch_training import (  # noqa: E402
    held_then_cosine,
    initial_tensors,
    torch_trajectory,
)
from drsformer_jax.parity.trajectory import (  # noqa: E402
    jax_trajectory,
    rainy_batches,
    shortened_recipe,
)
from drsformer_jax.parity.trajectory_report import (  # noqa: E402
    OURS,
    PYTORCH,
    TOLERANCES,
    TrainingRecord,
    TrainingReport,
    compare_runs,
)
from drsformer_jax.training.optimizer import OptimizerOptions  # noqa: E402

CONFIG = DRSformerConfig(
    dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 2, 2, 4), use_mefc=False, precision="highest"
)
STEPS = 10
# Warm-up, held, decay and what follows it, all in ten steps.
OPTIONS = shortened_recipe(STEPS, warmup_steps=3)
BATCHES = rainy_batches(STEPS, batch=1, size=16, seed=0)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return initial_tensors(CONFIG, seed=0)


@pytest.fixture(scope="module")
def ours(tensors: dict[str, np.ndarray]) -> list[TrainingRecord]:
    """Our float64 run: the one compilation of this file."""
    return list(jax_trajectory(CONFIG, OPTIONS, tensors, BATCHES, "float64"))


def report(
    ours: list[TrainingRecord],
    tensors: dict[str, np.ndarray],
    options: OptimizerOptions = OPTIONS,
) -> TrainingReport:
    pytorch = torch_trajectory(CONFIG, options, tensors, BATCHES[: len(ours)], "float64")
    steps = list(compare_runs({PYTORCH: pytorch, OURS: ours}))
    return TrainingReport({}, "float64", TOLERANCES["float64"], steps)


def test_both_programs_train_alike(
    ours: list[TrainingRecord], tensors: dict[str, np.ndarray]
) -> None:
    found = report(ours, tensors)
    assert found.failures() == []
    assert found.passed
    assert len(found.steps) == STEPS
    # They did train, and went through the whole schedule.
    moved = max(np.abs(ours[-1].tensors[name] - tensors[name]).max() for name in tensors)
    assert moved > 3 * OPTIONS.learning_rate
    rates = [record.learning_rate for record in ours]
    assert rates[:4] == pytest.approx([1e-4, 2e-4, 3e-4, 3e-4], rel=1e-12)
    assert rates[-1] == pytest.approx(1e-6, rel=1e-12)
    assert all(record.tensors[name].dtype == np.float64 for record in ours for name in tensors)


@pytest.mark.parametrize(
    ("change", "first_step", "quantity"),
    [
        ({"weight_decay": 0.0}, 1, "parameters"),
        ({"eps": 1e-7}, 1, "parameters"),
        ({"b1": 0.95}, 2, "parameters"),
        ({"b2": 0.99}, 2, "parameters"),
        ({"clip_norm": 0.02}, 1, "parameters"),
        ({"warmup_steps": 0}, 1, "learning rate"),
        # Four steps are held, the fifth still has the peak rate: the cosine begins there.
        ({"hold_steps": OPTIONS.hold_steps + 1}, 6, "learning rate"),
        ({"decay_steps": OPTIONS.decay_steps + 1}, 6, "learning rate"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_recipe_is_found(
    ours: list[TrainingRecord],
    tensors: dict[str, np.ndarray],
    change: dict[str, float],
    first_step: int,
    quantity: str,
) -> None:
    found = report(ours[:first_step], tensors, dataclasses.replace(OPTIONS, **change))
    assert not found.passed
    assert f"step {first_step}: {quantity}" in found.failures()[0]


def test_clipping_without_torchs_epsilon_is_found(
    ours: list[TrainingRecord],
    tensors: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As optax.clip_by_global_norm has it: a millionth of the norm, and AdamW hides most of it."""

    def clip(parameters: object, max_norm: float) -> torch.Tensor:
        gradients = [p.grad for p in parameters]  # type: ignore[attr-defined]
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, max_norm / norm.item()))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    found = report(ours[:2], tensors)
    assert not found.passed
    assert "parameters" in found.failures()[0]


def test_another_loss_is_found(
    ours: list[TrainingRecord],
    tensors: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_training.F, "l1_loss", torch.nn.functional.smooth_l1_loss)
    assert "step 1: loss" in report(ours[:1], tensors).failures()[0]


def test_the_schedule_is_that_of_pytorchs_own_schedulers() -> None:
    options = shortened_recipe(50)
    parameter = torch.nn.Parameter(torch.zeros(1))

    def sgd() -> torch.optim.Optimizer:
        return torch.optim.SGD([parameter], lr=options.learning_rate)

    ours, theirs = sgd(), sgd()
    schedulers = torch.optim.lr_scheduler
    parts = [
        schedulers.ConstantLR(theirs, factor=1.0),
        schedulers.CosineAnnealingLR(
            theirs, options.decay_steps, eta_min=options.final_learning_rate
        ),
    ]
    sequence = schedulers.SequentialLR(theirs, parts, [options.hold_steps])
    own = held_then_cosine(ours, options)
    for _ in range(options.hold_steps + options.decay_steps + 1):
        rate = ours.param_groups[0]["lr"]
        assert rate == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
        for optimizer, scheduler in ((ours, own), (theirs, sequence)):
            optimizer.step()
            scheduler.step()
    assert ours.param_groups[0]["lr"] == pytest.approx(options.final_learning_rate)


def test_batches_are_rainy_pictures() -> None:
    batches = rainy_batches(3, batch=2, size=16, seed=1)
    for batch in batches:
        rainy, clean = batch["input"], batch["target"]
        assert rainy.shape == clean.shape == (2, 16, 16, 3)
        assert rainy.dtype == clean.dtype == np.float32
        assert clean.std() > 0.05
        assert 0 <= rainy.min() <= rainy.max() <= 1
        assert (rainy - clean).max() > 0.1  # streaks are bright
    assert not np.array_equal(batches[0]["target"], batches[1]["target"])
    again = rainy_batches(3, batch=2, size=16, seed=1)
    np.testing.assert_array_equal(batches[2]["input"], again[2]["input"])


def test_initialisation_is_pytorchs_and_leaves_its_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch_training.network(CONFIG).state_dict()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    found = initial_tensors(CONFIG, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_decisions_are_noted_and_followed(tensors: dict[str, np.ndarray]) -> None:
    """Its own decisions change nothing in a run, another network's do."""

    def run(seed: int, mode: torch_training.Decisions | None) -> TrainingRecord:
        start = initial_tensors(CONFIG, seed)
        records = torch_trajectory(CONFIG, OPTIONS, start, BATCHES[:1], "float32")
        return next(torch_training.within(mode, records) if mode else records)

    alone = run(0, None)
    for seed, same in ((0, True), (1, False)):
        noted = torch_training.Decisions()
        assert run(seed, noted).loss == run(seed, None).loss
        # Seven blocks with four top-k choices and four ReLUs each.
        assert len(noted.kept) == 7 * (4 + 4)
        followed = run(0, torch_training.Decisions(follow=noted))
        assert noted.kept == []
        assert (followed.loss == alone.loss) is same
        assert (
            all(np.array_equal(followed.tensors[name], alone.tensors[name]) for name in tensors)
            is same
        )
