"""The training loop: resume, step, report, evaluate, save."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from drsformer_jax.data.pipeline import stage_at, training_batches
from drsformer_jax.data.sources import PairSource
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params
from drsformer_jax.processes import gather
from drsformer_jax.training.config import TrainingOptions
from drsformer_jax.training.kernel_trials import settled, told
from drsformer_jax.training.optimizer import learning_rate_schedule, make_optimizer
from drsformer_jax.training.reporting import Reporter, Validation, Window
from drsformer_jax.training.sharding import (
    check_divisible,
    local_images,
    make_mesh,
    on_first_device,
    shard_batch,
)
from drsformer_jax.training.state import TrainState, create_train_state
from drsformer_jax.training.step import Batch, Metrics, compile_train_step
from drsformer_jax.training.stopping import Interrupted, Stop, listening
from drsformer_jax.training.tensorboard import learned
from drsformer_jax.training.workdir import Workdir, opened

# The score by which the best checkpoint is kept.
VALIDATION_SCORE = "psnr"

# Runs something, and gives None as soon as the run is asked to stop.
Attempt = Callable[[Callable[[], Any]], Any]

# Scores parameters, its own work inside an attempt; None where that, or another process's, gave
# none.
Validate = Callable[[Params, Attempt], Validation | None]


def train(
    config: Mapping[str, Any],
    options: TrainingOptions,
    source: PairSource,
    workdir: Path,
    validate: Validate | None = None,
    profile_steps: int = 0,
    initial: Params | None = None,
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
      initial: parameters that a new run starts from instead of random ones; not used, and said so,
        where the workdir has a checkpoint.

    Returns:
      The last state.

    Raises:
      UserError: the workdir belongs to another configuration, has no good checkpoint left, is in
        use by another run, or cannot be written.
      TrainingDivergedError: loss or gradient became infinite or NaN; the message names the last
        good checkpoint.
      Interrupted: the run was asked to stop (SIGINT or SIGTERM); its state is saved.
    """
    mesh, optimizer = make_mesh(options.mesh), make_optimizer(options.optimizer)
    check_divisible(options.stages, options.accumulation_steps, mesh)
    # As JSON has it: what a checkpoint gives back is compared with it.
    config = json.loads(json.dumps({**config, "architecture": options.model.architecture()}))
    ema = options.ema_decay > 0
    create = functools.partial(create_train_state, options.model, optimizer, options.seed, ema=ema)
    start = opened(workdir, config, options, profile_steps, create, initial, mesh)
    with start as (run, state, evaluation_is_due):
        done = int(state.step)
        if done >= options.total_steps and not evaluation_is_due:
            run.log.say(f"nothing to do: {done:,} of {options.total_steps:,} steps are done")
            return state
        _announce(run.log, options, state.params, len(source))
        train_step = compile_train_step(
            state,
            _with_kernels(run.log, options, mesh),
            optimizer,
            options.optimizer,
            mesh,
            accumulation_steps=options.accumulation_steps,
            ema_decay=options.ema_decay,
        )
        batches = training_batches(
            source,
            seed=options.seed,
            stages=options.stages,
            start_step=done,
            mixup=options.mixup,
            augment=options.augment,
            num_threads=options.data_threads,
            images=functools.partial(local_images, mesh),
        )
        evaluate = functools.partial(_evaluate, validate, options.model, run, mesh)
        return _steps(options, run, mesh, train_step, batches, evaluate, state, evaluation_is_due)


def _steps(
    options: TrainingOptions,
    run: Workdir,
    mesh: Mesh,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    batches: Iterator[dict[str, np.ndarray]],
    evaluate: Callable[[TrainState, Stop], tuple[float | None, bool]],
    state: TrainState,
    evaluation_is_due: bool,
) -> TrainState:
    """The steps of a run from a state on, to its last one."""
    step = first = int(state.step)
    window = Window(step)

    def is_due(every: int) -> bool:
        return step == options.total_steps or (every > 0 and step % every == 0)

    with listening() as stop, run.naming_the_newest_good():
        if evaluation_is_due:
            evaluate(state, stop)
        while step < options.total_steps and not stop.number:
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                batch = shard_batch(next(batches), mesh, stage_at(options.stages, step).batch_size)
                compute = functools.partial(train_step, state, batch)
                done = stop.unless_compiling(compute, batch["input"].shape, step == run.saved_step)
            if done is None:
                # The state may be the step's by now. What was saved last is the same.
                run.log.say(f"stopped while compiling, with nothing new after step {step:,}")
                raise Interrupted(stop.own)
            (state, metrics), step = done, step + 1
            window.add(metrics, batch["input"].shape[0])
            run.profiler.advance(step, state)
            if step == first + 1:
                jax.block_until_ready(metrics)
                window.images = 0  # the first step was mostly compilation: no measure of speed
                run.log.restart_clock()
            run.log.advance(step)
            if is_due(options.log_every):
                run.log.training(window)
                window = Window(step)
            stop.agree()
            score, evaluation_is_due = None, is_due(options.eval_every)
            if evaluation_is_due and not stop.number:
                score, evaluation_is_due = evaluate(state, stop)
                stop.agree()
            if stop.number or is_due(options.checkpoint_every):
                run.save(state, window, score, evaluation_is_due)
        # While requests are still taken: the last save is not torn apart either.
        run.checkpoints.wait()
    if stop.number:
        run.log.say(f"stopped after step {step:,}; saved in {run.checkpoints.path(step)}")
        raise Interrupted(stop.number)
    best = run.checkpoints.best_step()
    if best is not None and best != step:
        run.log.say(f"best validation after step {best:,}: {run.checkpoints.path(best)}")
    return state


def _evaluate(
    validate: Validate | None,
    model: DRSformerConfig,
    run: Workdir,
    mesh: Mesh,
    state: TrainState,
    stop: Stop,
) -> tuple[float | None, bool]:
    """The score of a state, and whether it is still due.

    Asked to stop meanwhile, the run does so, and the state is validated when it is resumed.
    """
    if validate is None:
        return None, False
    params, step = on_first_device(state.best_params, mesh), int(state.step)
    found = validate(params, stop.unless)
    if found is None:
        stop.at_once()
        return None, True
    run.log.validation(step, found)
    run.log.learned(step, lambda: learned(model, params, found.rainy))
    return found.scores.get(VALIDATION_SCORE), False


def _with_kernels(log: Reporter, options: TrainingOptions, mesh: Mesh) -> DRSformerConfig:
    """The network, by those of TPU's kernels that agree with the other forms in every process."""
    stage = max(options.stages, key=lambda stage: stage.batch_size * stage.patch_size**2)
    images = max(stage.batch_size // (options.accumulation_steps * mesh.size), 1)
    model, trials = settled(options.model, images, stage.patch_size, stage.patch_size)
    if not trials or isinstance(model.kernels, str):
        return model
    log.say(told(trials))
    names = sorted({trial.case.kernel for trial in trials})
    taken = gather(np.array([name in model.kernels for name in names]))
    agreed = [name for number, name in enumerate(names) if taken[:, number].all()]
    return dataclasses.replace(model, kernels=tuple(agreed))


def _announce(log: Reporter, options: TrainingOptions, params: Params, pairs: int) -> None:
    """Says what is trained, with what, and where the schedule does not fit."""
    parameters = sum(x.size for x in jax.tree.leaves(params))
    log.parameters(parameter_overview.get_parameter_overview(params, include_stats=False))
    log.say(
        f"{parameters:,} parameters, {pairs:,} training pairs, "
        f"{jax.device_count()} {jax.default_backend()} device(s); "
        "compiling the training step at the first batch"
    )
    end = learning_rate_schedule(options.optimizer)(options.total_steps - 1)
    scheduled = options.optimizer.hold_steps + options.optimizer.decay_steps
    if options.total_steps != scheduled:
        log.say(
            f"note: the learning rate is scheduled over {scheduled:,} steps and this run ends "
            f"at {options.total_steps:,}, with a learning rate of {float(end):.2e}"
        )
