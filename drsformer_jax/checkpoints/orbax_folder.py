"""Orbax on disk: our weight checkpoints, and the weights inside a training workdir.

A weight checkpoint is a folder with two Orbax items: `params` (the tree) and `config` (JSON:
format, architecture, metadata). A workdir is what training writes: `checkpoints/<step>/` with the
items `state` ({step, params, opt_state[, ema_params]}), `data` and `config` (JSON with
`architecture`); of it only the parameters are read.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from drsformer_jax.checkpoints.names import Params
from drsformer_jax.checkpoints.runs import DATA_FILE_BYTES, DIRECTORY
from drsformer_jax.errors import UserError, damage_in_one_line, listing
from drsformer_jax.files import atomic_folder
from drsformer_jax.paths import require_readable, require_text

FORMAT = "drsformer"
_PARAMS, _STATE, _CONFIG, _EMA = "params", "state", "config", "ema_params"
_DOCUMENT = "metadata"  # of an item that is JSON, its file
# Some of them of Orbax; the last one on some drives only.
_OF_A_CHECKPOINT = frozenset({_PARAMS, _CONFIG, "_CHECKPOINT_METADATA", "commit_success.txt"})


@dataclasses.dataclass(frozen=True)
class StoredTree:
    """What a folder holds: parameters, float32; free strings; the architecture; dtypes there."""

    params: Params
    metadata: dict[str, str]
    architecture: dict[str, Any]
    dtypes: frozenset[str]


def is_checkpoint(path: Path) -> bool:
    """Whether the folder is a weight checkpoint of ours (without reading its tensors)."""
    try:
        return bool(read_item(path / _CONFIG).get("format") == FORMAT)
    except UserError:
        return False


def check_replaceable(path: Path) -> None:
    """That a folder, if there is one, is a weight checkpoint of ours and holds nothing else.

    Raises:
      UserError: it is not.
    """
    if not path.exists():
        return
    if not is_checkpoint(path):
        raise UserError(f"{path} exists and is not one of our checkpoints: give another name")
    foreign = sorted({entry.name for entry in path.iterdir()} - _OF_A_CHECKPOINT)
    if foreign:
        raise UserError(
            f"{path} holds more than a checkpoint ({listing(foreign)}), which would be lost: move "
            "that away, or give another name"
        )


def _is_step(path: Path) -> bool:
    """Whether the folder is one step of a training workdir."""
    return (path / _STATE).is_dir() and (path / _CONFIG).is_dir()


def folders_of(path: Path) -> list[Path]:
    """Where to look for weights: a weight checkpoint or a step itself, a workdir's steps.

    Returns:
      Folders for `read_folder`; of a workdir's steps the newest first.

    Raises:
      UserError: there are none.
    """
    if not os.path.isdir(path / DIRECTORY):
        # What says that this is a checkpoint, and no more: it may be the user's home.
        require_readable(path, [f"{_CONFIG}/{_DOCUMENT}"])
    if is_checkpoint(path) or _is_step(path):
        return [path]
    folder = (path / DIRECTORY).absolute()
    if not folder.is_dir():
        raise UserError(
            f"{path} is neither a checkpoint written by `drsformer convert` nor a training workdir "
            f"(which has a folder {DIRECTORY}/)"
        )
    steps = sorted(ocp.utils.checkpoint_steps(folder), reverse=True)
    if not steps:
        raise UserError(f"{path} has no checkpoint yet: let training reach its first one")
    return [folder / str(step) for step in steps]


def read_folder(path: Path) -> StoredTree:
    """The parameters in a weight checkpoint, or in one step of a training workdir.

    Of a step the averaged parameters where training kept an average, else the parameters.

    Raises:
      UserError: the folder is damaged.
    """
    document = read_item(path / _CONFIG)
    architecture, kept = document.get("architecture"), document.get("metadata")
    if _is_step(path):
        with damage_in_one_line(path):
            key = _EMA if _tree_metadata(path / _STATE).get(_EMA) else _PARAMS
            tree, dtypes = _restore(path / _STATE, key)
        metadata = {"source": path.absolute().name, "step": path.name, "parameters": key}
    else:
        with damage_in_one_line(path):
            tree, dtypes = _restore(path / _PARAMS, None)
        metadata = {key: str(note) for key, note in kept.items()} if isinstance(kept, dict) else {}
    if not isinstance(architecture, dict):
        raise UserError(f"{path} does not say which architecture its parameters have")
    return StoredTree(tree, metadata, architecture, dtypes)


def write_folder(
    path: Path, params: Params, architecture: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Writes a weight checkpoint; one that is already there is replaced when the new one is whole.

    Raises:
      UserError: something else is there under that name, or in that folder.
    """
    require_text(path)
    path = path.absolute()
    check_replaceable(path)
    document = {"format": FORMAT, "architecture": architecture, "metadata": dict(metadata)}
    with (
        atomic_folder(path) as folder,
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(
            folder,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(
                    jax.tree.map(lambda leaf: np.asarray(leaf).view(_Shared), params),
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


def _tree_metadata(item: Path) -> dict[str, Any]:
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree: dict[str, Any] = handler.metadata(epath.Path(item.absolute())).tree
        return tree
    finally:
        handler.close()


def _restore(item: Path, key: str | None) -> tuple[dict[str, Any], frozenset[str]]:
    """A saved tree, or of it the subtree under `key`, as float32 of NumPy whatever wrote it; and
    the dtypes that it is saved in.

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
    saved = tree[key] if key else tree
    dtypes = frozenset(str(leaf.dtype) for leaf in jax.tree.leaves(saved))
    with np.errstate(over="ignore"):
        # A float64 value beyond float32 becomes infinite, which `check_finite` reports.
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), saved), dtypes


def read_item(item: Path, file: str = _DOCUMENT) -> dict[str, Any]:
    """What was saved as JSON under this item; that of a score lies in the file "metrics".

    Raises:
      UserError: it is unreadable.
    """
    try:
        document = json.loads((item / file).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{item.parent} is damaged: {item.name}/{file} is unreadable") from error
    if not isinstance(document, dict):
        raise UserError(f"{item.parent} is damaged: {item.name}/{file} is unreadable")
    return document
