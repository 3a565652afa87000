"""What a run starts from: the newest checkpoint that can be used, or nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from drsformer_jax.buckets import is_in_bucket, reached
from drsformer_jax.checkpoints.runs import TrainingCheckpoints
from drsformer_jax.errors import UserError, damage_in_one_line
from drsformer_jax.models.drsformer import Params
from drsformer_jax.paths import require_readable
from drsformer_jax.processes import is_first, together
from drsformer_jax.training.sharding import state_sharding
from drsformer_jax.training.state import TrainState

T = TypeVar("T")


def first_state(
    create: Callable[[Params | None], TrainState],
    initial: Params | None,
    checkpoints: TrainingCheckpoints,
    mesh: Mesh,
    check: Callable[[Mapping[str, Any]], None],
) -> tuple[TrainState, dict[str, Any]]:
    """The state of the newest good checkpoint, or of `create`, laid out on the mesh.

    Checkpoints that are newer and cannot be read are put aside, with a warning.

    Args:
      create: gives the state of a new run with given parameters, or with its own; also asked for
        its shapes.
      initial: the parameters of a new run, if given; without use where there is a checkpoint.
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
        state = create(initial)
        return jax.device_put(state, state_sharding(state, mesh)), {}
    shapes = jax.eval_shape(create, None)
    like = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_sharding(shapes, mesh),
    )
    unusable: dict[int, str] = {}

    def readable(read: Callable[[int], T], step: int) -> T | None:
        """What is read of a checkpoint; None where that is damaged, for this process or another."""
        path = checkpoints.path(step)
        try:
            with together(), damage_in_one_line(path), reached(path):
                return read(step)
        except UserError as error:
            if is_in_bucket(path):
                # What cannot be reached is not damaged, and nothing is renamed there.
                raise UserError(
                    f"{error}; if it is damaged, remove {path}, and the run goes back to the "
                    "checkpoint before it"
                ) from error
            unusable[step] = str(error)
            return None

    for step in reversed(steps):
        with together():
            require_readable(checkpoints.path(step))
        if (saved := readable(checkpoints.config, step)) is None:
            continue
        check(saved)
        if (found := readable(functools.partial(checkpoints.restore, like), step)) is None:
            continue
        for bad, reason in unusable.items():
            aside = checkpoints.put_aside(bad)
            _tell(f"warning: {reason}; put aside as {aside}, going back to step {step:,}")
        _tell(f"resuming after step {step:,} from {checkpoints.path(step)}")
        if initial is not None:
            _tell("note: the parameters to start from are not used, for the run has its own")
        return found
    raise UserError(
        f"no good checkpoint left: {unusable[steps[-1]]}; choose another --workdir to start anew"
    )


def _tell(message: str) -> None:
    if is_first():
        print(message, flush=True)
