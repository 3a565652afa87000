"""A run's workdir: all that it keeps on disk, and what it says of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from drsformer_jax.buckets import reached
from drsformer_jax.checkpoints.runs import TrainingCheckpoints
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_json
from drsformer_jax.models.drsformer import Params
from drsformer_jax.processes import check_shared, is_first, together
from drsformer_jax.training.config import TrainingOptions, check_same_run
from drsformer_jax.training.mirror import Mirror, mirrored
from drsformer_jax.training.profiling import StepProfiler
from drsformer_jax.training.reporting import NotFiniteError, Reporter, Window
from drsformer_jax.training.resuming import first_state
from drsformer_jax.training.state import TrainState
from drsformer_jax.training.stopping import Interrupted
from drsformer_jax.training.workdir_lock import only_run

CONFIG_FILE = "config.json"

# In a checkpoint's data: the run was asked to stop before the state was validated.
EVALUATION_IS_DUE = "evaluation_is_due"


class TrainingDivergedError(UserError):
    """Loss or gradient stopped being finite."""


@dataclasses.dataclass
class Workdir:
    """Checkpoints, metrics, console and trace of a run, in a folder that is its alone.

    Every process has one, and all call the same methods in the same order.

    Attributes:
      config: saved with every checkpoint.
      checkpoints, log, profiler: in the folder.
      mirror: of what else is there.
      still_ours: raises a UserError where the folder is another run's by now, or gone.
      saved_step: steps done in the state that was saved or restored last.
    """

    config: Mapping[str, Any]
    checkpoints: TrainingCheckpoints
    log: Reporter
    profiler: StepProfiler
    mirror: Mirror
    still_ours: Callable[[], None]
    saved_step: int

    def save(
        self, state: TrainState, window: Window, score: float | None, evaluation_is_due: bool
    ) -> None:
        """Saves a state, with its score if it has one.

        Raises:
          NotFiniteError: the steps since the last report, those of the window, have spoilt it.
          UserError: the folder is another run's by now, or cannot be written.
        """
        window.finite()
        self.still_ours()
        # Before the checkpoint: records of steps that come again are dropped, others never come.
        self.upload()
        step = int(state.step)
        data = {"next_step": step, EVALUATION_IS_DUE: evaluation_is_due}
        self.checkpoints.save(state, data, self.config, score)
        self.saved_step = step

    def upload(self) -> None:
        """Writes into a bucket what there is to say of the steps so far."""
        with together():
            self.mirror.upload()

    @contextlib.contextmanager
    def naming_the_newest_good(self) -> Iterator[None]:
        """A NotFiniteError becomes a TrainingDivergedError with the newest good checkpoint."""
        try:
            yield
        except NotFiniteError as error:
            self.checkpoints.wait()
            saved = self.checkpoints.latest_step()
            good = "none was saved" if saved is None else str(self.checkpoints.path(saved))
            raise TrainingDivergedError(
                f"training diverged at {error}; last good checkpoint: {good}"
            ) from error


@contextlib.contextmanager
def opened(
    folder: Path,
    config: Mapping[str, Any],
    options: TrainingOptions,
    profile_steps: int,
    create: Callable[[Params | None], TrainState],
    initial: Params | None,
    mesh: Mesh,
) -> Iterator[tuple[Workdir, TrainState, bool]]:
    """A run's workdir, the state that it goes on from, and whether that is still to be validated.

    All is on disk when the block ends. Arguments are those of `train` and `first_state`; the
    configuration has JSON values, and the errors are those that `train` names.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_told_by_name(folder))
        still_ours = stack.enter_context(only_run(folder))
        with together():
            mirror = stack.enter_context(mirrored(folder))
        stack.enter_context(_uploaded_last(mirror))
        here = mirror.folder
        with together(), reached(folder):
            checkpoints = TrainingCheckpoints(folder, options.keep_checkpoints)
        stack.callback(checkpoints.close)
        check_shared(folder)
        state, data = first_state(
            create, initial, checkpoints, mesh,
            lambda saved: check_same_run(saved, config, str(folder)),
        )  # fmt: skip
        step = int(state.step)
        with together():
            log = Reporter(here, options.total_steps, step, silent=not is_first(), named=folder)
            stack.callback(log.close)
            if is_first():
                write_json(here / CONFIG_FILE, config)
        profiler = StepProfiler(here, step, profile_steps, log.say)
        stack.callback(profiler.close)
        workdir = Workdir(config, checkpoints, log, profiler, mirror, still_ours, step)
        yield workdir, state, bool(data.get(EVALUATION_IS_DUE))


@contextlib.contextmanager
def _uploaded_last(mirror: Mirror) -> Iterator[None]:
    """Uploads the end of the logs, too; not after an error that may mean another run is there."""
    try:
        yield
    except (Interrupted, TrainingDivergedError):
        mirror.upload()
        raise
    mirror.upload()


@contextlib.contextmanager
def _told_by_name(folder: Path) -> Iterator[None]:
    """What the system refuses becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--workdir {folder}: {error.filename or 'a file'} cannot be written "
            f"({error.strerror or error})"
        ) from error
