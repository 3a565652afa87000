"""Orbax on disk: our weight checkpoints, and the weights inside a training workdir.

A weight checkpoint is a folder with two Orbax items: `params` (the tree) and `config` (JSON:
format, architecture, metadata). A workdir is what training writes: `checkpoints/<step>/` with the
items `state` ({step, params, opt_state[, ema_params]}), `data` and `config` (JSON with
`architecture`); of it only the parameters are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from drsformer_jax.checkpoints.names import check_tree
from drsformer_jax.checkpoints.runs import DATA_FILE_BYTES, damage_in_one_line
from drsformer_jax.checkpoints.tensors import Weights, check_finite, config_from
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_folder
from drsformer_jax.paths import require_text

FORMAT = "drsformer"
_PARAMS, _STATE, _CONFIG, _EMA = "params", "state", "config", "ema_params"


def load_directory(path: Path) -> Weights:
    """The weights of a folder: a weight checkpoint, a training workdir or one of its steps.

    Raises:
      UserError: the folder is none of these, or damaged.
    """
    require_text(path)
    if is_checkpoint(path):
        return load_checkpoint(path)
    if (path / _STATE).is_dir() and (path / _CONFIG).is_dir():
        return _load_step(path)
    if (path / "checkpoints").is_dir():
        return load_workdir(path)
    raise UserError(
        f"{path} is neither a checkpoint written by `drsformer convert` nor a training workdir "
        "(which has a folder checkpoints/)"
    )


def is_checkpoint(path: Path) -> bool:
    """Whether the folder is a weight checkpoint of ours (without reading its tensors)."""
    try:
        return bool(_read_json(path / _CONFIG).get("format") == FORMAT)
    except UserError:
        return False


def load_checkpoint(path: Path) -> Weights:
    """The weights of a folder that `save_checkpoint` wrote.

    Raises:
      UserError: the folder is damaged, or its tensors do not fit its architecture.
    """
    document = _read_json(path / _CONFIG)
    with damage_in_one_line(path):
        tree = _restore(path / _PARAMS, None)
    notes = document.get("metadata")
    metadata = {key: str(note) for key, note in notes.items()} if isinstance(notes, dict) else {}
    return _weights(tree, document, metadata, path)


def save_checkpoint(path: Path, weights: Weights) -> None:
    """Writes a weight checkpoint; one that is already there is replaced when the new one is whole.

    Raises:
      UserError: something else is there under that name.
    """
    require_text(path)
    path = path.absolute()
    if path.exists() and not is_checkpoint(path):
        raise UserError(f"{path} exists and is not one of our checkpoints: give another name")
    document = {
        "format": FORMAT,
        "architecture": weights.config.architecture(),
        "metadata": dict(weights.metadata),
    }
    with (
        atomic_folder(path) as folder,
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(
            folder,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(
                    jax.tree.map(lambda leaf: np.asarray(leaf).view(_Shared), weights.params),
                    ocdbt_target_data_file_size=DATA_FILE_BYTES,
                ),
                config=ocp.args.JsonSave(document),
            ),
            force=True,
        )


class _Shared(np.ndarray):
    """An array that Orbax does not copy before it writes.

    It copies host arrays lest they change while it writes in the background; here the writing is
    waited for, and the copy would be one of the whole network.
    """

    def __deepcopy__(self, memo: dict[int, Any] | None) -> _Shared:
        return self


def load_workdir(path: Path) -> Weights:
    """The weights of the newest good checkpoint of a training run.

    The averaged parameters where training kept an average, else the parameters. A checkpoint that
    cannot be read, or whose parameters are not finite, is passed over and named in the notes.

    Raises:
      UserError: there is no good checkpoint.
    """
    folder = (path / "checkpoints").absolute()
    steps = sorted(ocp.utils.checkpoint_steps(folder), reverse=True)
    if not steps:
        raise UserError(f"{path} has no checkpoint yet: let training reach its first one")
    failures: list[str] = []
    for step in steps:
        try:
            weights = _load_step(folder / str(step))
        except UserError as error:
            # The note travels with the weights: it should not carry the path of this machine.
            reason = str(error).removeprefix(f"{folder / str(step)} ")
            failures.append(f"step {step} was passed over: it {reason}")
            continue
        weights.metadata["source"] = path.absolute().name
        if failures:
            weights.metadata["notes"] = "; ".join(failures)
        return weights
    raise UserError(f"{path} has no good checkpoint; {failures[0]}")


def _load_step(path: Path) -> Weights:
    """The weights in one step's folder of a training run."""
    document = _read_json(path / _CONFIG)
    with damage_in_one_line(path):
        kept = _tree_metadata(path / _STATE)
        key = _EMA if kept.get(_EMA) else _PARAMS
        tree = _restore(path / _STATE, key)
    metadata = {"source": path.absolute().name, "step": path.name, "parameters": key}
    return _weights(tree, document, metadata, path)


def _weights(
    tree: dict[str, Any], document: dict[str, Any], metadata: dict[str, str], path: Path
) -> Weights:
    architecture = document.get("architecture")
    if not isinstance(architecture, dict):
        raise UserError(f"{path} does not say which architecture its parameters have")
    config = config_from(architecture, str(path))
    check_finite(check_tree(tree, config, str(path)), str(path))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=np.float32), tree)
    return Weights(config, params, metadata)


def _tree_metadata(item: Path) -> dict[str, Any]:
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree: dict[str, Any] = handler.metadata(epath.Path(item.absolute())).tree
        return tree
    finally:
        handler.close()


def _restore(item: Path, key: str | None) -> dict[str, Any]:
    """A saved tree, or of it the subtree under `key`, as NumPy arrays whatever wrote it.

    Nothing else is read from the disk, and the devices it was sharded over need not be here.
    """
    wanted = _tree_metadata(item)
    if key is not None:
        wanted = {key: wanted[key]}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree: dict[str, Any] = handler.restore(
            epath.Path(item.absolute()),
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True),
        )
    finally:
        handler.close()
    return tree if key is None else tree[key]


def _read_json(item: Path) -> dict[str, Any]:
    """What ocp.args.JsonSave wrote as this item."""
    try:
        document = json.loads((item / "metadata").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{item.parent} is damaged: {item.name}/metadata is unreadable") from error
    if not isinstance(document, dict):
        raise UserError(f"{item.parent} is damaged: {item.name}/metadata is unreadable")
    return document
