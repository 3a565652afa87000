"""Checkpoints of a training run: state, data position and configuration, through Orbax.

Layout: WORKDIR/checkpoints/STEP/{state,data,config[,metrics]}. Orbax writes each step under a
temporary name and renames it when it is complete, so a run that is killed leaves whole checkpoints
only. In a bucket it puts a file into it last, without which it counts for nothing. Of one that is
damaged later, its fingerprint tells.

JAX is imported where it is used: files of weights are read and converted without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from drsformer_jax.buckets import is_in_bucket, objects_below
from drsformer_jax.checkpoints.fingerprint import fingerprint
from drsformer_jax.checkpoints.write_failures import cause_of_failure
from drsformer_jax.errors import UserError

DIRECTORY = "checkpoints"

# Orbax keeps in memory what is to go into one data file, and by its default of 2 GB that is
# everything: a copy of the whole state while it is being written.
DATA_FILE_BYTES = 8 * 2**20

S = TypeVar("S")  # a flax dataclass with a field `step`: training.state.TrainState

SCORE, FINGERPRINT = "score", "fingerprint"

# Of a configuration under `imported`: what of its run another program's files told (`basicsr`).
_IMPORTED = {"file": str, "ema": bool, "step_type": str, "group": dict, "rest": dict}

# Behind the step in the name of a checkpoint that could not be used.
DAMAGED = ".damaged"


def _tree(state: Any) -> dict[str, Any]:
    """The state's fields by name; none for a moving average that is not there."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


class TrainingCheckpoints:
    """Saves and restores the states of one workdir.

    Where several processes train together, each of them makes one and calls the same methods in
    the same order: every process writes and reads its own part.
    """

    def __init__(self, workdir: Path, keep: int | None) -> None:
        """Opens WORKDIR/checkpoints, which is made if need be.

        Args:
          keep: so many newest checkpoints are kept, and the one with the best score. None: only to
            read, beside a run that may be writing.

        Raises:
          UserError: it is a file, or the score of a checkpoint is damaged.
        """
        # Orbax takes a second to import: only training pays for it.
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.directory = workdir / DIRECTORY
        if not is_in_bucket(workdir):
            self.directory = self.directory.absolute()
            if self.directory.is_file():
                raise UserError(f"{self.directory} is a file where a folder should be: move it")
            _check_scores(self.directory)
        managers = ocp.checkpoint_managers

        def score(metrics: Mapping[str, float]) -> float:
            return metrics[SCORE]

        best = managers.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
                best_fn=score,  # without it no score is written
                create=keep is not None,
                read_only=keep is None,
                # What a run that was killed while it saved has left behind.
                cleanup_tmp_directories=keep is not None,
            ),
            item_names=("state", "data", "config", "metrics"),
        )

    def steps(self) -> list[int]:
        """Steps done at the checkpoints that are there, in rising order."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Steps done at the newest whole checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Steps done at the checkpoint with the best score, or None if none has one."""
        best: int | None = self._manager.best_step()
        return best

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.directory / str(step)

    def save(
        self,
        state: Any,
        data: Mapping[str, Any],
        config: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """Starts saving a state that is finished in the background; a saved step stays as it is.

        Args:
          state: after `state.step` steps; a flax dataclass.
          data: position of the data, JSON values.
          config: of the run, JSON values.
          score: of this state, the higher the better: the best one is kept.

        Raises:
          UserError: this checkpoint, or the one before, could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        tree = _tree(state)
        with self._writing():
            self._manager.save(
                step,
                args=args.Composite(
                    state=args.PyTreeSave(tree, ocdbt_target_data_file_size=DATA_FILE_BYTES),
                    data=args.JsonSave({**data, FINGERPRINT: fingerprint(tree)}),
                    config=args.JsonSave(dict(config)),
                ),
                metrics=None if score is None else {SCORE: score},
            )

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: a checkpoint could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What the disk refuses becomes a UserError."""
        try:
            yield
        except Exception as error:
            saved = whole_steps(self.directory)
            good = f"the last good one is {self.path(saved[-1])}" if saved else "there is none"
            reason, remedy = cause_of_failure(error, self.directory)
            raise UserError(
                f"{self.directory}: a checkpoint could not be written ({reason}); {good}: "
                f"{remedy}, and start again with the same flags"
            ) from error

    def restore(self, like: S, step: int) -> tuple[S, dict[str, Any]]:
        """The state saved after `step` steps, laid out as `like` is, and the data position.

        Raises:
          UserError: what is read is not what was saved.
          Exception: of Orbax and TensorStore, which cannot read it.
        """
        import jax

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
        tree, data = restored["state"], dict(restored["data"])
        # Those of earlier versions have none.
        expected = data.pop(FINGERPRINT, None)
        if expected is not None and fingerprint(tree) != expected:
            raise UserError(f"{self.path(step)} is damaged: its values are not those saved")
        return dataclasses.replace(cast(Any, like), **tree), data

    def config(self, step: int) -> dict[str, Any]:
        """The configuration that a checkpoint was saved with; errors as of `restore`."""
        args = self._ocp.args
        restored = self._manager.restore(step, args=args.Composite(config=args.JsonRestore()))
        config = restored["config"]
        if not _is_of_a_run(config):
            raise UserError(f"{self.path(step)} is damaged: its configuration is none")
        return config

    def put_aside(self, step: int) -> Path:
        """Renames a checkpoint that cannot be used, so that its step can be saved again.

        Returns:
          Where it is now.
        """
        import jax

        aside = self.directory / f"{step}{DAMAGED}"
        for number in itertools.count(1):
            if not aside.exists():
                break
            aside = self.directory / f"{step}{DAMAGED}-{number}"
        if jax.process_index() == 0:
            self.path(step).rename(aside)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"put aside {step}")
        self._manager.reload()
        return aside

    def close(self) -> None:
        """Waits until everything is on disk; raises as `wait`."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.close()


def _is_of_a_run(config: Any) -> bool:
    """Whether a document has the shape that the configuration of every run has."""
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), dict):
        return False
    if "imported" not in config:
        return True
    imported = config["imported"]
    return isinstance(imported, dict) and all(
        isinstance(imported.get(key), kind) for key, kind in _IMPORTED.items()
    )


def _check_scores(directory: Path) -> None:
    """That the scores of a folder's checkpoints can be read: Orbax reads all of them at once.

    Raises:
      UserError: one cannot.
    """
    for step in whole_steps(directory):
        file = directory / str(step) / "metrics" / "metrics"
        try:
            if file.is_file():
                score = json.loads(file.read_text())[SCORE]
                if not isinstance(score, int | float):
                    raise TypeError(f"no score: {score!r}")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged: remove {file.parent}, and nothing but the score is lost"
            ) from error


def whole_steps(directory: Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, rising; none without the folder.

    UserError if it is in a bucket that cannot be listed.
    """
    if is_in_bucket(directory):
        # Nothing is renamed there: a checkpoint is whole when Orbax has put this into it.
        found = re.findall(
            r"^(\d+)/commit_success\.txt$", "\n".join(objects_below(directory)), re.M
        )
        return sorted(map(int, found))
    try:
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())
    except OSError:
        return []
