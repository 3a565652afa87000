"""Weights of a network and the forms in which they lie on disk."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

from drsformer_jax.buckets import any_path, is_in_bucket
from drsformer_jax.checkpoints import hub
from drsformer_jax.checkpoints.catalogue import by_name, default_weights, packaged
from drsformer_jax.checkpoints.contents import EXPORTED, kind_of
from drsformer_jax.checkpoints.in_bucket import fetch_weights
from drsformer_jax.checkpoints.infer import config_from, infer_config
from drsformer_jax.checkpoints.names import (
    Params,
    check_finite,
    check_finite_params,
    check_tree,
    to_tree,
    torch_views,
)
from drsformer_jax.checkpoints.pytorch_file import read_pytorch, write_pytorch
from drsformer_jax.checkpoints.safetensors_file import read_safetensors, write_safetensors
from drsformer_jax.checkpoints.write_failures import written_or_refused
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.paths import nothing_at, require_readable, require_text

Form = Literal["pytorch", "safetensors", "directory"]

_FORMS: dict[str, Form] = {
    ".pth": "pytorch",
    ".pt": "pytorch",
    ".safetensors": "safetensors",
    "": "directory",
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network: its configuration, its parameters and where they come from.

    params: the tree of `models.drsformer`, float32 NumPy arrays; metadata: free strings (source,
    recipe, score, notes), kept by every form but PyTorch's; notes: what is to be said of how they
    were read, kept by none; dtypes: of the arrays where they were read from, likewise.
    """

    config: DRSformerConfig
    params: Params
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dtypes: frozenset[str] = frozenset()


def load_weights(path: str | os.PathLike[str] | None = None) -> Weights:
    """The weights at `path`: a file of PyTorch or safetensors under any name; a folder; those that
    come with the package under that name (`checkpoints.catalogue`); those at an address on the
    Hugging Face hub (`checkpoints.hub`); or a file or folder in a bucket (`buckets`).

    Which of them a file is, its content tells. A folder is a checkpoint written by
    `save_weights`, a training workdir (its newest good checkpoint; the averaged parameters where
    there are) or one step of it. A step of a workdir that cannot be read, or whose parameters are
    not finite, is passed over and named in the notes. Without a path: the weights that come with
    the package.

    Raises:
      UserError: there is nothing, it may not be read, is of no form we know, damaged, not a
        DRSformer, or not finite.
    """
    if path is not None and hub.is_address(path):
        return _load_address(str(path))
    if is_in_bucket(path):
        place, metadata = fetch_weights(any_path(str(path)))
        weights = load_weights(place)
        return dataclasses.replace(weights, metadata=weights.metadata | metadata)
    path = default_weights() if path is None else by_name(path)
    try:
        if not path.exists():
            raise nothing_at(path, known=packaged())
        return _load_folder(path) if path.is_dir() else _load_file(path)
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _load_address(address: str) -> Weights:
    path, pinned = hub.fetch(address)
    if kind_of(path) != "safetensors":
        raise UserError(f"{address}: is no .safetensors file, whatever its name")
    weights = _load_file(path)
    return dataclasses.replace(weights, metadata={**weights.metadata, "source": pinned})


def _load_folder(path: Path) -> Weights:
    """Of the newest good one of the folders that hold weights."""
    require_text(path)
    # Orbax takes seconds to import; files do without it.
    from drsformer_jax.checkpoints.orbax_folder import folders_of, read_folder

    failures: list[str] = []
    for place in folders_of(path):
        require_readable(place)
        try:
            stored = read_folder(place)
            config = config_from(stored.architecture, str(place))
            check_finite(check_tree(stored.params, config, str(place)), str(place))
        except UserError as error:
            if place == path:
                raise
            # The note travels with the weights: it should not carry the path of this machine.
            reason = str(error).removeprefix(f"{place} ")
            failures.append(f"step {place.name} was passed over: it {reason}")
            continue
        metadata = stored.metadata
        if place != path:
            metadata["source"] = path.absolute().name
        if failures:
            metadata["notes"] = "; ".join(failures)
        return Weights(config, stored.params, metadata, dtypes=stored.dtypes)
    raise UserError(f"{path} has no good checkpoint; {failures[0]}")


def _load_file(path: Path) -> Weights:
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder")
    kind = kind_of(path) or _FORMS.get(path.suffix.lower())
    if kind is None and path.suffix.lower() in EXPORTED:
        raise UserError(f"{path} is an exported network: name the weights that it was made from")
    read = read_safetensors if kind == "safetensors" else read_pytorch
    stored, source = read(path), str(path)
    if stored.architecture is None:
        config = infer_config({name: t.shape for name, t in stored.tensors.items()}, source)
    else:
        config = config_from(stored.architecture, source)
    params = to_tree(stored.tensors, config, source)
    check_finite_params(params, config, source)
    dtypes = frozenset(tensor.precision for tensor in stored.tensors.values())
    return Weights(config, params, stored.metadata, stored.notes, dtypes)


def save_weights(path: str | os.PathLike[str], weights: Weights) -> None:
    """Writes weights in the form that `path` asks for, atomically.

    `.pth`/`.pt`: {"params": state_dict} for the authors' program; `.safetensors`; without a suffix
    a checkpoint folder. A file, or a checkpoint folder of ours, that is there is replaced.

    Raises:
      UserError: the suffix names no form we write, the place cannot be written, or a folder that
        is not ours is there.
    """
    path = Path(path)
    form = form_of(path)
    if form != "directory" and path.is_dir():
        raise UserError(f"{path} is a folder: give a file name")
    views = torch_views(weights.params, weights.config)
    with written_or_refused(path):
        if form == "pytorch":
            write_pytorch(path, views)
        elif form == "safetensors":
            write_safetensors(path, views, weights.config.architecture(), weights.metadata)
        else:
            from drsformer_jax.checkpoints.orbax_folder import write_folder

            write_folder(path, weights.params, weights.config.architecture(), weights.metadata)


def form_of(path: Path) -> Form:
    """The form in which weights are written at `path`.

    Raises:
      UserError: its suffix is not one of ours.
    """
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"{path}: cannot tell the form from {path.suffix!r}: end the name in .pth, .pt or "
            ".safetensors, or in none of them (no dot) for a checkpoint folder"
        )
    return form
