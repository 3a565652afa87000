"""AdamW's settings and the learning-rate schedule, as BasicSR's training state holds them.

The authors' schedule is the class CosineAnnealingRestartCyclicLR of their program. It has a list
of `periods` (iterations), each of them half a cosine from the base rate to its own `eta_mins`
entry; the recipe's first period ends where it begins and so holds the rate. The first iteration
takes the rate at 0: after n iterations `last_epoch` is n - 1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax

from drsformer_jax.basicsr.state import StateFile
from drsformer_jax.errors import UserError
from drsformer_jax.training.optimizer import OptimizerOptions, learning_rate_schedule

# Of a learning rate in a file, against the one that its schedule gives: PyTorch's own schedules
# multiply step by step and drift further than float64 rounds.
_RATE_TOLERANCE = 1e-6


def read_settings(state: StateFile) -> tuple[dict[str, Any], list[str]]:
    """What a training state tells of config.optimizer, and notes on what it does not.

    Raises:
      UserError: numbers in the file contradict each other, or make no optimizer.
    """
    group, source = state.group, str(state.path)
    settings: dict[str, Any] = {
        "b1": group["betas"][0],
        "b2": group["betas"][1],
        "eps": group["eps"],
        "weight_decay": group["weight_decay"],
    }
    schedule = state.schedulers[0] if state.schedulers else {}
    last = schedule.get("last_epoch")
    if last is not None and last != state.iteration - 1:
        raise UserError(
            f"{source}: its learning-rate schedule is at {last!r} but must be one behind iter "
            f"{state.iteration}: the two are not of the same moment of a run"
        )
    held_then_cosine = _periods(schedule)
    base = group.get("initial_lr", group["lr"])
    if held_then_cosine is None:
        notes = [
            "its learning-rate schedule is not the authors' held-then-cosine one: the run goes on "
            f"with the schedule of --config, from step {state.iteration:,}"
        ]
    else:
        if list(schedule.get("base_lrs", [base])) != [base]:
            raise UserError(
                f"{source}: its schedule starts at {schedule['base_lrs']}, its optimizer at {base}"
            )
        settings |= {"learning_rate": base, **held_then_cosine}
        notes = []
    try:
        options = OptimizerOptions(**settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: its optimizer: {error}") from error
    if held_then_cosine is not None:
        rate = learning_rate_at(options, state.iteration - 1)
        if abs(group["lr"] - rate) > _RATE_TOLERANCE * rate:
            notes.append(
                f"the learning rate in the file is {group['lr']:g}, where its schedule gives "
                f"{rate:g}: set config.optimizer.warmup_steps if this is a warm-up"
            )
    return settings, notes


def _periods(schedule: Mapping[str, Any]) -> dict[str, Any] | None:
    """Hold and decay of the authors' schedule; None if it is another one."""
    try:
        periods, lowest = list(schedule["periods"]), list(schedule["eta_mins"])
        weights, (base,) = list(schedule["restart_weights"]), schedule["base_lrs"]
    except (KeyError, TypeError, ValueError):
        return None
    whole = all(type(period) is int and period > 0 for period in periods)
    if not whole or weights != [1] * len(periods) or len(lowest) != len(periods):
        return None
    if len(periods) == 2 and lowest[0] == base:
        return {
            "hold_steps": periods[0],
            "decay_steps": periods[1],
            "final_learning_rate": lowest[1],
        }
    if len(periods) == 1 and lowest[0] != base:
        return {"hold_steps": 0, "decay_steps": periods[0], "final_learning_rate": lowest[0]}
    return None


def learning_rate_at(options: OptimizerOptions, finished: int) -> float:
    """The rate of the step that follows `finished` ones, in float64."""
    with jax.enable_x64(True):
        return float(learning_rate_schedule(options)(finished))


def group_settings(options: OptimizerOptions, step: int) -> dict[str, Any]:
    """The parameter group of a torch.optim.AdamW after `step` iterations, without `params`."""
    import torch

    optimizer = torch.optim.AdamW(
        [torch.nn.Parameter(torch.zeros(()))],
        lr=learning_rate_at(options, step - 1),
        betas=(options.b1, options.b2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    # As this PyTorch writes it: the keys differ from version to version.
    group: dict[str, Any] = optimizer.state_dict()["param_groups"][0]
    del group["params"]
    return {**group, "initial_lr": float(options.learning_rate)}


def schedule_state(options: OptimizerOptions, step: int) -> dict[str, Any]:
    """What the authors' schedule's `load_state_dict` takes after `step` iterations.

    Raises:
      UserError: the schedule does not decay, which theirs cannot say.
    """
    if options.decay_steps == 0:
        raise UserError(
            "config.optimizer.decay_steps of this run is 0: the authors' program has no such "
            "schedule"
        )
    base, lowest = float(options.learning_rate), float(options.final_learning_rate)
    periods, eta_mins = [options.decay_steps], [lowest]
    if options.hold_steps:
        periods, eta_mins = [options.hold_steps, *periods], [base, *eta_mins]
    # A warm-up is not the schedule's there: it overwrites the optimizer's rate.
    rate = learning_rate_at(dataclasses.replace(options, warmup_steps=0), step - 1)
    return {
        "periods": periods,
        "restart_weights": [1] * len(periods),
        "eta_mins": eta_mins,
        "cumulative_period": list(itertools.accumulate(periods)),
        "base_lrs": [base],
        "last_epoch": step - 1,
        "_step_count": step,
        "_get_lr_called_within_step": False,
        "_last_lr": [rate],
    }
