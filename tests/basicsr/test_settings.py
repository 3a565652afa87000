"""AdamW's settings and the schedule, to and from the authors' training state."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from drsformer_jax.basicsr.settings import group_settings, read_settings, schedule_state
from drsformer_jax.basicsr.state import StateFile
from drsformer_jax.errors import UserError
from drsformer_jax.training.optimizer import OptimizerOptions

RECIPE = {"hold_steps": 92_000, "decay_steps": 208_000, "final_learning_rate": 1e-6}
GROUP = {"lr": 3e-4, "initial_lr": 3e-4, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SCHEDULE = {
    "periods": [92_000, 208_000],
    "restart_weights": [1, 1],
    "eta_mins": [3e-4, 1e-6],
    "base_lrs": [3e-4],
    "last_epoch": 4,
}


def state(group: dict[str, Any] | None = None, **schedule: Any) -> StateFile:
    """A state after five iterations; keyword arguments change its schedule, None removes it."""
    schedulers = [SCHEDULE | schedule] if schedule.get("periods", True) else []
    group = GROUP | (group or {})
    return StateFile(Path("5.state"), 5, group, schedulers, {}, 0, {})


def test_the_recipe_is_recognised() -> None:
    settings, notes = read_settings(state())
    assert settings == {
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "learning_rate": 3e-4,
        **RECIPE,
    }
    assert notes == []


def test_one_period_is_a_cosine_from_the_start() -> None:
    one = {"periods": [400], "restart_weights": [1], "eta_mins": [0.0]}
    settings, notes = read_settings(state({"lr": 0.0002999259892257821}, **one))
    assert (settings["hold_steps"], settings["decay_steps"]) == (0, 400)
    assert settings["final_learning_rate"] == 0
    assert notes == []


@pytest.mark.parametrize(
    "schedule",
    [
        {"periods": None},
        {"restart_weights": [1, 0.5]},
        {"periods": [100, 100, 100], "restart_weights": [1] * 3, "eta_mins": [0, 0, 0]},
        {"eta_mins": [0, 0]},
        {"periods": "odd"},
    ],
)
def test_another_schedule_is_left_to_the_configuration(schedule: dict[str, Any]) -> None:
    settings, (note,) = read_settings(state(None, **schedule))
    assert settings.keys() == {"b1", "b2", "eps", "weight_decay"}
    assert "goes on with the schedule of --config, from step 5" in note


def test_a_rate_that_is_not_the_schedules_is_noted() -> None:
    _, (note,) = read_settings(state({"lr": 1e-4}))
    assert "0.0001, where its schedule gives 0.0003" in note


@pytest.mark.parametrize(
    ("group", "schedule", "message"),
    [
        ({}, {"last_epoch": 5}, r"schedule is at 5 but must be one behind iter 5"),
        ({}, {"last_epoch": 3}, r"schedule is at 3 but"),
        ({}, {"base_lrs": [0.1], "eta_mins": [0.1, 0]}, r"starts at \[0.1\], its optimizer at"),
        ({"eps": 0}, {}, "its optimizer: eps must be positive"),
        ({"initial_lr": "x", "lr": 1.0}, {"base_lrs": ["x"], "eta_mins": ["x", 0]}, "optimizer: "),
    ],
)
def test_contradictions(group: dict[str, Any], schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^5\.state: .*{message}"):
        read_settings(state(group, **schedule))


@pytest.mark.parametrize("hold", [0, 92_000])
@pytest.mark.parametrize("step", [1, 92_001, 200_000])
def test_what_is_written_is_read_back(hold: int, step: int) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    options = OptimizerOptions(hold_steps=hold, b1=0.8, weight_decay=0.01)
    group, schedule = group_settings(options, step), schedule_state(options, step)
    settings, notes = read_settings(StateFile(Path("x"), step, group, [schedule], {}, 0, {}))
    assert notes == []
    assert dataclasses.replace(options, **settings) == options
    assert settings["learning_rate"] == options.learning_rate


def test_the_schedule_takes_what_is_written_and_gives_the_same_rates() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from reference.basicsr import CyclicCosine

    options = OptimizerOptions(hold_steps=4, decay_steps=8)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], options.learning_rate)
    schedule = CyclicCosine(optimizer, [4, 8], [1, 1], [options.learning_rate, 1e-6])
    for step in range(1, 13):
        if step > 1:
            optimizer.step()
            schedule.step()
        expected = schedule.state_dict()
        written = schedule_state(options, step)
        assert written["_last_lr"] == pytest.approx(expected["_last_lr"], rel=1e-12)
        assert group_settings(options, step)["lr"] == pytest.approx(expected["_last_lr"][0], 1e-12)
        # What else this version of PyTorch keeps is no part of where the schedule stands.
        known = {key: expected[key] for key in written if key != "_last_lr"}
        assert {key: written[key] for key in known} == known


def test_warm_up_is_the_optimizers_and_not_the_schedules() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    options = OptimizerOptions(warmup_steps=10)
    assert group_settings(options, 4)["lr"] == pytest.approx(3e-4 * 4 / 10, rel=1e-12)
    assert schedule_state(options, 4)["_last_lr"] == [pytest.approx(3e-4, rel=1e-12)]


def test_a_schedule_that_theirs_cannot_say() -> None:
    with pytest.raises(UserError, match=r"decay_steps of this run is 0"):
        schedule_state(OptimizerOptions(decay_steps=0), 3)
