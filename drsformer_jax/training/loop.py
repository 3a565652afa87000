"""The training loop: resume, step, report, evaluate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from drsformer_jax.checkpoints.runs import TrainingCheckpoints
from drsformer_jax.data.pipeline import stage_at, training_batches
from drsformer_jax.data.sources import PairSource
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_json
from drsformer_jax.models.drsformer import SIZE_MULTIPLE, Params
from drsformer_jax.training.interruption import Interrupted, StopRequests, stop_requests
from drsformer_jax.training.optimizer import learning_rate_schedule, make_optimizer
from drsformer_jax.training.options import TrainingOptions, check_same_run, flatten
from drsformer_jax.training.processes import StopAgreement, check_shared, is_first, together
from drsformer_jax.training.profiling import StepProfiler
from drsformer_jax.training.reporting import Reporter
from drsformer_jax.training.resuming import first_state
from drsformer_jax.training.sharding import (
    check_divisible,
    local_images,
    make_mesh,
    on_first_device,
    shard_batch,
)
from drsformer_jax.training.state import TrainState, create_train_state
from drsformer_jax.training.step import Batch, Metrics, compile_train_step
from drsformer_jax.training.window import NotFiniteError, Window, collapse_warning
from drsformer_jax.training.workdir_lock import only_run

CONFIG_FILE = "config.json"

# In a checkpoint's data: the run was asked to stop before the state was validated.
EVALUATION_IS_DUE = "evaluation_is_due"

# The score by which the best checkpoint is kept.
VALIDATION_SCORE = "psnr"


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
      scores: by name, for the logs.
      summary: one line for the console.
      pictures: by name, uint8 H W 3.
    """

    scores: Mapping[str, float]
    summary: str
    pictures: Mapping[str, np.ndarray]


# Runs something, and gives None as soon as the run is asked to stop.
Attempt = Callable[[Callable[[], Any]], Any]

# Scores parameters, its own work inside an attempt; None where that, or another process's, gave
# none.
Validate = Callable[[Params, Attempt], Validation | None]


class TrainingDivergedError(UserError):
    """Loss or gradient stopped being finite."""


def train(
    config: Mapping[str, Any],
    options: TrainingOptions,
    source: PairSource,
    workdir: Path,
    validate: Validate | None = None,
    profile_steps: int = 0,
) -> TrainState:
    """Trains until `total_steps`, carrying on from the newest checkpoint in the workdir.

    The parameters after n steps depend on the configuration alone, not on how often the run was
    stopped and started again.

    Args:
      config: of the run, nested plain values; saved with every checkpoint.
      options: the same, checked (`training_options`).
      source: training pairs.
      workdir: for checkpoints, metrics.jsonl, config.json and TensorBoard's files.
      validate: scores parameters.
      profile_steps: so many steps are traced into WORKDIR/profile.

    Returns:
      The last state.

    Raises:
      UserError: the workdir belongs to another configuration, has no good checkpoint left, is in
        use by another run, or cannot be written.
      TrainingDivergedError: loss or gradient became infinite or NaN; the message names the last
        good checkpoint.
      Interrupted: the run was asked to stop (SIGINT or SIGTERM); its state is saved.
    """
    try:
        mesh = _mesh(options)
        with only_run(workdir) as still_ours:
            run = _Run(config, options, source, workdir, validate, profile_steps, mesh, still_ours)
            with contextlib.closing(run):
                return run.run()
    except OSError as error:
        raise UserError(
            f"--workdir {workdir}: {error.filename or 'a file'} cannot be written "
            f"({error.strerror or error})"
        ) from error


class _Run:
    """The parts of one run that its steps share."""

    def __init__(
        self,
        config: Mapping[str, Any],
        options: TrainingOptions,
        source: PairSource,
        workdir: Path,
        validate: Validate | None,
        profile_steps: int,
        mesh: Mesh,
        still_ours: Callable[[], None],
    ) -> None:
        self.options, self.source, self.validate = options, source, validate
        self.mesh, self.still_ours = mesh, still_ours
        self.saved_config = {
            **_plain(config),
            "architecture": options.model.architecture(),
        }
        with together():
            self.checkpoints = TrainingCheckpoints(workdir, options.keep_checkpoints)
        check_shared(workdir)
        self.optimizer = make_optimizer(options.optimizer)
        self.state, data = first_state(
            functools.partial(
                create_train_state,
                options.model,
                self.optimizer,
                options.seed,
                ema=options.ema_decay > 0,
            ),
            self.checkpoints,
            self.mesh,
            lambda saved: check_same_run(saved, self.saved_config, str(workdir)),
        )
        self.evaluation_is_due = bool(data.get(EVALUATION_IS_DUE))
        self.saved_step = done = int(self.state.step)
        self.score: float | None = None  # of the state, where it has been validated
        self.stop = 0  # the signal that the run is to stop for
        self.compiled_for: set[tuple[int, ...]] = set()
        with together():
            self.reporter = Reporter(workdir, options.total_steps, done, silent=not is_first())
            if is_first():
                write_json(workdir / CONFIG_FILE, self.saved_config)
        self.profiler = StepProfiler(workdir, done, profile_steps, self.reporter.say)

    def run(self) -> TrainState:
        options, reporter = self.options, self.reporter
        step = first = self.saved_step
        if step >= options.total_steps and not self.evaluation_is_due:
            reporter.say(f"nothing to do: {step:,} of {options.total_steps:,} steps are done")
            return self.state
        self._announce()
        batches = training_batches(
            self.source,
            seed=options.seed,
            stages=options.stages,
            start_step=step,
            mixup=options.mixup,
            num_threads=options.data_threads,
            images=functools.partial(local_images, self.mesh),
        )
        train_step = compile_train_step(
            self.state,
            options.model,
            self.optimizer,
            options.optimizer,
            self.mesh,
            accumulation_steps=options.accumulation_steps,
            ema_decay=options.ema_decay,
        )
        window = Window(step)
        with stop_requests() as requests:
            agreement = StopAgreement(requests)
            if self.evaluation_is_due:
                self._evaluate(step, requests)
            while step < options.total_steps and not self.stop:
                with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                    global_batch = stage_at(options.stages, step).batch_size
                    batch = shard_batch(next(batches), self.mesh, global_batch)
                    done = self._run(train_step, batch, requests)
                if done is None:
                    # The state may be the step's by now. What was saved last is the same.
                    reporter.say(f"stopped while compiling, with nothing new after step {step:,}")
                    raise Interrupted(requests.number)
                self.state, metrics = done
                step += 1
                self.profiler.advance(step, self.state)
                window.add(metrics, batch["input"].shape[0])
                if step == first + 1:
                    jax.block_until_ready(metrics)
                    window.images = 0  # the first step was mostly compilation: no measure of speed
                    reporter.restart_clock()
                reporter.advance(step)
                if self._due(step, options.log_every):
                    self._report(window)
                    window = Window(step)
                self.stop = self.stop or agreement.number()
                self.score = None
                if self._due(step, options.eval_every):
                    self.evaluation_is_due = True
                    if not self.stop:
                        self._evaluate(step, requests)
                        self.stop = self.stop or agreement.number()
                if self._due(step, options.checkpoint_every):
                    self._save(step, window)
            if self.stop:
                self._save(step, window)
            # While requests are still taken: the last save is not torn apart either.
            self.checkpoints.wait()
        if self.stop:
            reporter.say(f"stopped after step {step:,}; saved in {self.checkpoints.path(step)}")
            raise Interrupted(self.stop)
        best = self.checkpoints.best_step()
        if best is not None and best != step:
            reporter.say(f"best validation after step {best:,}: {self.checkpoints.path(best)}")
        return self.state

    def _run(
        self, train_step: Any, batch: Batch, requests: StopRequests
    ) -> tuple[TrainState, Metrics] | None:
        """A step, or None: the run is asked to stop while it is compiled.

        A compilation can take longer than there is time to leave. Where nothing is lost by it, it
        is not waited for.
        """
        shape = batch["input"].shape
        if shape in self.compiled_for:
            return train_step(self.state, batch)
        self.compiled_for.add(shape)
        if int(self.state.step) > self.saved_step:
            return train_step(self.state, batch)
        return requests.unless(lambda: train_step(self.state, batch))

    def _due(self, step: int, every: int) -> bool:
        return step == self.options.total_steps or (every > 0 and step % every == 0)

    def _announce(self) -> None:
        options = self.options
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        self.reporter.say(
            f"{parameters:,} parameters, {len(self.source):,} training pairs, "
            f"{jax.device_count()} {jax.default_backend()} device(s); "
            "compiling the training step at the first batch"
        )
        end = learning_rate_schedule(options.optimizer)(options.total_steps - 1)
        scheduled = options.optimizer.hold_steps + options.optimizer.decay_steps
        if options.total_steps != scheduled:
            self.reporter.say(
                f"note: the learning rate is scheduled over {scheduled:,} steps and this run ends "
                f"at {options.total_steps:,}, with a learning rate of {float(end):.2e}"
            )

    def _report(self, window: Window) -> None:
        """Means of a window's steps."""
        with self._naming_the_last_good():
            means = window.means()
        step = window.first_step + len(window.metrics)
        self.reporter.training(step, means, window.images)
        if warning := collapse_warning(means):
            self.reporter.say(warning)

    @contextlib.contextmanager
    def _naming_the_last_good(self) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            self.checkpoints.wait()
            saved = self.checkpoints.latest_step()
            good = "none was saved" if saved is None else str(self.checkpoints.path(saved))
            raise TrainingDivergedError(
                f"training diverged at {error}; last good checkpoint: {good}"
            ) from error

    def _evaluate(self, step: int, requests: StopRequests) -> None:
        """Scores the state; asked to stop meanwhile, the run does so when it is resumed."""
        if self.validate is not None:
            params = on_first_device(self.state.best_params, self.mesh)
            validation = self.validate(params, requests.unless)
            if validation is None:
                self.stop = requests.number or signal.SIGTERM
                return
            self._validated(step, validation)
        self.evaluation_is_due = False

    def _validated(self, step: int, validation: Validation) -> None:
        self.score = validation.scores.get(VALIDATION_SCORE)
        self.reporter.write(step, validation.scores)
        self.reporter.pictures(step, validation.pictures)
        self.reporter.say(f"step {step:,}  {validation.summary}")
        self.reporter.restart_clock()

    def _save(self, step: int, window: Window) -> None:
        """Saves the state, unless the steps since the last report have spoilt it."""
        with self._naming_the_last_good():
            window.finite()
        self.still_ours()
        data = {"next_step": step, EVALUATION_IS_DUE: self.evaluation_is_due}
        self.checkpoints.save(self.state, data, self.saved_config, self.score)
        self.saved_step = step

    def close(self) -> None:
        self.profiler.close()
        self.reporter.close()
        self.checkpoints.close()


def _mesh(options: TrainingOptions) -> Mesh:
    mesh = make_mesh(options.mesh)
    check_divisible(
        (stage.batch_size // options.accumulation_steps for stage in options.stages),
        (stage.patch_size for stage in options.stages),
        SIZE_MULTIPLE,
        mesh,
    )
    return mesh


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain dictionaries with the values that JSON has."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else flatten({key: value})[key]
        for key, value in config.items()
    }
