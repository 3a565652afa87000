"""Checkpoints of a training run: state, data position and configuration, through Orbax.

Layout: WORKDIR/checkpoints/STEP/{state,data,config}. Orbax writes each step under a temporary
name and renames it when it is complete, so a run that is killed leaves whole checkpoints only.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import jax

logger = logging.getLogger(__name__)

DIRECTORY = "checkpoints"

# Orbax keeps in memory what is to go into one data file, and by its default of 2 GB that is
# everything: a copy of the whole state while it is being written.
DATA_FILE_BYTES = 8 * 2**20


class State(Protocol):
    """What is saved: a flax dataclass with these fields (training.state.TrainState)."""

    @property
    def step(self) -> Any: ...
    @property
    def params(self) -> Any: ...
    @property
    def opt_state(self) -> Any: ...
    @property
    def ema_params(self) -> Any: ...


S = TypeVar("S", bound=State)


def _tree(state: State) -> dict[str, Any]:
    """The state as a plain dictionary; no key for a moving average that is not there."""
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    if state.ema_params is not None:
        tree["ema_params"] = state.ema_params
    return tree


class TrainingCheckpoints:
    """Saves and restores the states of one workdir."""

    def __init__(self, workdir: Path, keep: int) -> None:
        """Opens WORKDIR/checkpoints, which is made if need be; `keep` newest ones are kept."""
        # Orbax takes a second to import: only training pays for it.
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.directory = (workdir / DIRECTORY).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_names=("state", "data", "config"),
        )

    def latest_step(self) -> int | None:
        """Steps done at the newest whole checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.directory / str(step)

    def save(self, state: State, data: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Starts saving a state that is finished in the background; a saved step stays as it is.

        Args:
          state: after some step.
          data: position of the data, JSON values.
          config: of the run, JSON values.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                state=args.PyTreeSave(_tree(state), ocdbt_target_data_file_size=DATA_FILE_BYTES),
                data=args.JsonSave(dict(data)),
                config=args.JsonSave(dict(config)),
            ),
        )

    def restore(self, like: S, step: int) -> tuple[S, dict[str, Any]]:
        """The state saved after `step` steps, laid out as `like` is, and the data position."""
        args = self._ocp.args
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _tree(like)
        )
        restored = self._manager.restore(
            step,
            args=args.Composite(
                state=args.PyTreeRestore(
                    abstract, self._ocp.checkpoint_utils.construct_restore_args(abstract)
                ),
                data=args.JsonRestore(),
            ),
        )
        return dataclasses.replace(cast(Any, like), **restored["state"]), restored["data"]

    def config(self, step: int) -> dict[str, Any]:
        """The configuration that a checkpoint was saved with."""
        args = self._ocp.args
        return self._manager.restore(step, args=args.Composite(config=args.JsonRestore()))["config"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
