"""What a run starts from: the newest checkpoint that can be used, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from drsformer_jax.checkpoints.runs import TrainingCheckpoints
from drsformer_jax.errors import UserError, damage_in_one_line
from drsformer_jax.paths import require_readable
from drsformer_jax.training.processes import is_first, together
from drsformer_jax.training.sharding import state_sharding
from drsformer_jax.training.state import TrainState


class _UnusableError(Exception):
    """A checkpoint that cannot be read."""


def first_state(
    create: Callable[[], TrainState],
    checkpoints: TrainingCheckpoints,
    mesh: Mesh,
    check: Callable[[Mapping[str, Any]], None],
) -> tuple[TrainState, dict[str, Any]]:
    """The state of the newest good checkpoint, or of `create`, laid out on the mesh.

    Checkpoints that are newer and cannot be read are put aside, with a warning.

    Args:
      create: gives the state of a new run; also asked for its shapes.
      checkpoints: of the run.
      check: raises a UserError for the configuration of another run.

    Returns:
      The state, and the data that were saved with it.

    Raises:
      UserError: the checkpoints are another run's, none of them is good, or a newest one may not
        be read.
    """
    steps = checkpoints.steps()
    if not steps:
        state = create()
        return jax.device_put(state, state_sharding(state, mesh)), {}
    shapes = jax.eval_shape(create)
    like = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_sharding(shapes, mesh),
    )
    unusable: dict[int, str] = {}
    for step in reversed(steps):
        try:
            state, data = _restore(like, step, checkpoints, check)
        except _UnusableError as error:
            unusable[step] = str(error)
            continue
        for bad, reason in unusable.items():
            aside = checkpoints.put_aside(bad)
            _tell(f"warning: {reason}; put aside as {aside}, going back to step {step:,}")
        _tell(f"resuming after step {step:,} from {checkpoints.path(step)}")
        return state, data
    raise UserError(
        f"no good checkpoint left: {unusable[steps[-1]]}; choose another --workdir to start anew"
    )


def _restore(
    like: TrainState,
    step: int,
    checkpoints: TrainingCheckpoints,
    check: Callable[[Mapping[str, Any]], None],
) -> tuple[TrainState, dict[str, Any]]:
    """A checkpoint's state and data.

    Raises:
      UserError: they are of another run, or may not be read.
      _UnusableError: they cannot be read, here or in another process.
    """
    place = checkpoints.path(step)
    with together():
        require_readable(place)
    try:
        with together(), damage_in_one_line(place):
            saved = checkpoints.config(step)
    except UserError as error:
        raise _UnusableError(str(error)) from error
    check(saved)
    try:
        with together(), damage_in_one_line(place):
            return checkpoints.restore(like, step)
    except UserError as error:
        raise _UnusableError(str(error)) from error


def _tell(message: str) -> None:
    if is_first():
        print(message, flush=True)
