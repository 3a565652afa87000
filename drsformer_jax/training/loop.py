"""The training loop: resume, step, report, evaluate, save."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from drsformer_jax.checkpoints.training_state import TrainingCheckpoints
from drsformer_jax.data.pipeline import stage_at, training_batches
from drsformer_jax.data.sources import PairSource
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path
from drsformer_jax.models.drsformer import SIZE_MULTIPLE, Params
from drsformer_jax.training.interruption import stop_requests
from drsformer_jax.training.optimizer import learning_rate_schedule, make_optimizer
from drsformer_jax.training.options import TrainingOptions, check_same_run, flatten
from drsformer_jax.training.profiling import StepProfiler
from drsformer_jax.training.reporting import Reporter
from drsformer_jax.training.sharding import (
    check_divisible,
    local_images,
    make_mesh,
    shard_batch,
    state_sharding,
)
from drsformer_jax.training.state import TrainState, create_train_state
from drsformer_jax.training.step import compile_train_step

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"

# Of what should change, so little does when the network has collapsed to output = input.
COLLAPSED_SHARE = 0.02


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


Validate = Callable[[Params], Validation]


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
      UserError: the workdir belongs to another configuration.
      TrainingDivergedError: loss or gradient became infinite or NaN; the message names the last
        good checkpoint.
      KeyboardInterrupt: the run was asked to stop (SIGINT or SIGTERM); its state is saved.
    """
    run = _Run(config, options, source, workdir, validate, profile_steps)
    try:
        return run.run()
    finally:
        run.close()


@dataclasses.dataclass
class _Window:
    """The steps since the last report: their numbers, still on the device, and images seen."""

    first_step: int
    metrics: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)
    images: int = 0

    def add(self, metrics: dict[str, jax.Array], images: int) -> None:
        self.metrics.append(metrics)
        self.images += images


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
    ) -> None:
        self.options, self.source, self.validate = options, source, validate
        self.saved_config = {
            **_plain(config),
            "architecture": options.model.architecture(),
        }
        self.mesh = make_mesh(options.mesh)
        check_divisible(
            (stage.batch_size // options.accumulation_steps for stage in options.stages),
            (stage.patch_size for stage in options.stages),
            SIZE_MULTIPLE,
            self.mesh,
        )
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self.checkpoints = TrainingCheckpoints(workdir, options.keep_checkpoints)
        except OSError as error:
            raise UserError(f"--workdir {workdir}: {error.strerror or error}") from error
        self.optimizer = make_optimizer(options.optimizer)
        self.state = self._start(workdir)
        done = int(self.state.step)
        self.reporter = Reporter(workdir, options.total_steps, done)
        self.profiler = StepProfiler(workdir, done, profile_steps, self.reporter.say)
        with atomic_path(workdir / CONFIG_FILE) as temporary:
            temporary.write_text(json.dumps(self.saved_config, indent=2) + "\n")

    def _start(self, workdir: Path) -> TrainState:
        """The newest checkpoint's state, or a new one."""
        step = self.checkpoints.latest_step()
        if step is not None:
            check_same_run(self.checkpoints.config(step), self.saved_config, str(workdir))
        state = create_train_state(
            self.options.model,
            self.optimizer,
            self.options.seed,
            ema=self.options.ema_decay > 0,
        )
        state = jax.device_put(state, state_sharding(state, self.mesh))
        if step is not None:
            state, _ = self.checkpoints.restore(state, step)
            print(f"resuming after step {step:,} from {self.checkpoints.path(step)}", flush=True)
        return state

    def run(self) -> TrainState:
        options, reporter = self.options, self.reporter
        step = first = int(self.state.step)
        if step >= options.total_steps:
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
        window = _Window(step)
        with stop_requests() as stop:
            while step < options.total_steps and not stop:
                with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                    batch = shard_batch(
                        next(batches), self.mesh, stage_at(options.stages, step).batch_size
                    )
                    self.state, metrics = train_step(self.state, batch)
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
                    window = _Window(step)
                if self._due(step, options.eval_every) and not stop:
                    self._evaluate(step)
                if self._due(step, options.checkpoint_every):
                    self._save(step, window)
        if stop:
            self._save(step, window)
            reporter.say(f"stopped after step {step:,}; saved in {self.checkpoints.path(step)}")
            raise KeyboardInterrupt
        return self.state

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

    def _report(self, window: _Window) -> None:
        """Means of a window's steps."""
        fetched = self._finite(window)
        step = window.first_step + len(fetched)
        means = {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}
        means["learning_rate"] = float(fetched[-1]["learning_rate"])
        self.reporter.training(step, means, window.images)
        if means["output_change"] < COLLAPSED_SHARE * means["target_change"]:
            self.reporter.say(
                f"warning: the network has collapsed to output = input (mean |output - input| "
                f"{means['output_change']:.2g}, mean |target - input| "
                f"{means['target_change']:.2g}); it seldom recovers: start again from an earlier "
                "checkpoint, with another seed or a lower learning rate"
            )

    def _finite(self, window: _Window) -> list[dict[str, Any]]:
        """The numbers of a window's steps, once they are computed.

        Raises:
          TrainingDivergedError: one of them is not finite.
        """
        fetched = jax.device_get(window.metrics)
        for step, metrics in enumerate(fetched, start=window.first_step + 1):
            if not all(math.isfinite(value) for value in metrics.values()):
                self._diverged(step, metrics)
        return fetched

    def _diverged(self, step: int, metrics: Mapping[str, Any]) -> NoReturn:
        self.checkpoints.close()
        saved = self.checkpoints.latest_step()
        good = "none was saved" if saved is None else str(self.checkpoints.path(saved))
        numbers = ", ".join(f"{name} {float(value):.3g}" for name, value in metrics.items())
        raise TrainingDivergedError(
            f"training diverged at step {step:,} ({numbers}); last good checkpoint: {good}"
        )

    def _evaluate(self, step: int) -> None:
        if self.validate is None:
            return
        validation = self.validate(self.state.best_params)
        self.reporter.write(step, validation.scores)
        self.reporter.pictures(step, validation.pictures)
        self.reporter.say(f"step {step:,}  {validation.summary}")
        self.reporter.restart_clock()

    def _save(self, step: int, window: _Window) -> None:
        """Saves the state, unless the steps since the last report have spoilt it."""
        self._finite(window)
        self.checkpoints.save(self.state, {"next_step": step}, self.saved_config)

    def close(self) -> None:
        self.profiler.close()
        self.reporter.close()
        self.checkpoints.close()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain dictionaries with the values that JSON has."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else flatten({key: value})[key]
        for key, value in config.items()
    }
