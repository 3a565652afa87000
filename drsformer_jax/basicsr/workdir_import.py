"""A run of BasicSR, the authors' training program, as a workdir that training resumes.

Parameters, moments and counters move bit for bit. What a training state has and a workdir has not
(the epoch, PyTorch's own settings, the schedule's attributes) stays with the imported checkpoint,
under `imported` in its configuration, for `workdir_export`. The rest of that configuration is what
the files tell: whoever resumes the run brings the data, the seed and all else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from drsformer_jax.basicsr.network import (
    Network,
    find_network,
    read_network,
)
from drsformer_jax.basicsr.plain_values import to_json
from drsformer_jax.basicsr.settings import read_settings
from drsformer_jax.basicsr.state import Moments, StateFile, read_moments, read_state
from drsformer_jax.checkpoints.runs import DIRECTORY, TrainingCheckpoints
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_folder
from drsformer_jax.training.claim import LOCK_FILE
from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
from drsformer_jax.training.reporting import METRICS_FILE, PARAMETERS_FILE, PICTURES
from drsformer_jax.training.run_report import REPORT
from drsformer_jax.training.sessions import FILE as SESSIONS_FILE
from drsformer_jax.training.state import TrainState
from drsformer_jax.training.tensorboard import FOLDER
from drsformer_jax.training.workdir import CONFIG_FILE
from drsformer_jax.training.workdir_lock import only_run

# What a run leaves in its workdir: a folder with anything else in it is not ours to replace.
_OF_A_RUN = frozenset(
    {
        *(DIRECTORY, CONFIG_FILE, METRICS_FILE, PARAMETERS_FILE, LOCK_FILE, "evaluation", FOLDER),
        *(SESSIONS_FILE, PICTURES, REPORT),
    }
)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was converted, for a report.

    Attributes:
      source, destination: files or folders, in words.
      network: with its moving average, if it has one.
      step: steps done.
      notes: what was converted on the way, or has no place on the other side.
    """

    source: str
    destination: str
    network: Network
    step: int
    notes: list[str]


def import_run(
    state_path: Path, network_path: Path | None, workdir: Path, force: bool
) -> Conversion:
    """Writes a workdir from a training state and its network.

    Args:
      state_path: the `.state` file.
      network_path: its network file; None: where BasicSR puts it, or beside the state.
      workdir: to be made.
      force: replace a workdir that is there.

    Raises:
      UserError: the files are damaged, do not belong together or hold what training here does
        not have; or the workdir is there. Nothing is written then.
    """
    _check_workdir(workdir, force)
    file = read_state(state_path)
    network_path = find_network(file) if network_path is None else network_path
    network = read_network(network_path, file.iteration)
    settings, notes = read_settings(file)
    moments = read_moments(file, network.config, network.params)
    if moments.updates != file.iteration:
        notes.append(
            f"AdamW has made {moments.updates:,} updates in {file.iteration:,} iterations; its "
            "bias correction goes on from there"
        )
    saved_config = {
        "architecture": network.config.architecture(),
        "optimizer": settings,
        "imported": {
            "file": state_path.name,
            "ema": network.ema is not None,
            "step_type": moments.step_type,
            "group": to_json(file.group, f"{state_path}: param_groups[0]"),
            "rest": to_json(file.rest, f"{state_path}: state"),
        },
    }
    state = _train_state(file, network, moments, OptimizerOptions(**settings))
    # A run that writes there is not replaced.
    alone = only_run(workdir) if workdir.exists() else contextlib.nullcontext()
    try:
        with alone, atomic_folder(workdir) as folder:
            with contextlib.closing(TrainingCheckpoints(folder, keep=1)) as checkpoints:
                checkpoints.save(state, {"next_step": file.iteration}, saved_config)
            (folder / CONFIG_FILE).write_text(json.dumps(saved_config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{workdir} cannot be written: {error.strerror or error}") from error
    return Conversion(
        source=f"{state_path} and {network_path}",
        destination=str(workdir),
        network=network,
        step=file.iteration,
        notes=[*network.notes, *moments.notes, *notes],
    )


def _check_workdir(workdir: Path, force: bool) -> None:
    if not workdir.absolute().parent.is_dir():
        raise UserError(f"{workdir}: there is no folder {workdir.parent}, make it first")
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise UserError(f"{workdir} is a file: a training state becomes a workdir, name a folder")
    entries = {entry.name for entry in workdir.iterdir()}
    if not entries:
        return
    foreign = sorted(entries - _OF_A_RUN)
    if foreign or DIRECTORY not in entries:
        what = foreign[0] if foreign else f"no {DIRECTORY}/"
        raise UserError(f"{workdir} exists and is not only a workdir ({what}): give another name")
    if not force:
        raise UserError(f"{workdir} holds a run: give another name, or --force to replace it")


def _train_state(
    file: StateFile, network: Network, moments: Moments, options: OptimizerOptions
) -> TrainState:
    """The state after the file's iteration."""

    def fill(part: Any) -> Any:
        if isinstance(part, optax.ScaleByAdamState):
            count = jnp.asarray(moments.updates, jnp.int32)
            return optax.ScaleByAdamState(count, moments.mean, moments.square)
        if isinstance(part, optax.ScaleByScheduleState):
            return optax.ScaleByScheduleState(jnp.asarray(file.iteration, jnp.int32))
        return part

    empty = jax.eval_shape(make_optimizer(options).init, network.params)
    return TrainState(
        step=jnp.asarray(file.iteration, jnp.int32),
        params=network.params,
        opt_state=jax.tree.map(fill, empty, is_leaf=is_counted),
        ema_params=network.ema,
    )


def is_counted(part: Any) -> bool:
    """Whether a part of an optimiser's state counts steps: AdamW or the schedule."""
    return isinstance(part, optax.ScaleByAdamState | optax.ScaleByScheduleState)
