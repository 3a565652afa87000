"""The network file that BasicSR writes beside a training state: {params[, params_ema]}."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from drsformer_jax.basicsr.state import StateFile
from drsformer_jax.checkpoints.foreign_names import only_tensors, own_names
from drsformer_jax.checkpoints.infer import infer_config
from drsformer_jax.checkpoints.names import Params, check_finite_params, to_tree
from drsformer_jax.checkpoints.pytorch_file import load_file, require_torch, stored_tensors
from drsformer_jax.checkpoints.tensors import precision_note
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.paths import likelier

STATES_FOLDER, NETWORKS_FOLDER = "training_states", "models"


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network file holds: float32 trees; `ema` is the moving average, or None."""

    config: DRSformerConfig
    params: Params
    ema: Params | None
    notes: tuple[str, ...]


def network_name(iteration: int) -> str:
    """BasicSR's name for the network after that many steps."""
    return f"net_g_{iteration}.pth"


def find_network(state: StateFile) -> Path:
    """The network file of a state: where BasicSR puts it, else beside the state.

    Raises:
      UserError: it is in neither place.
    """
    name, folder = network_name(state.iteration), state.path.absolute().parent
    places = [folder / name]
    if folder.name == STATES_FOLDER:
        places.insert(0, folder.parent / NETWORKS_FOLDER / name)
    for place in places:
        if place.is_file():
            return place
    looked = " nor at ".join(map(str, places))
    raise UserError(f"{state.path}: its network is not at {looked}: name it with --network")


def place_for_network(state_path: Path, iteration: int) -> Path:
    """Where the network of a state that is to be written belongs, if nothing else is asked for."""
    name, folder = network_name(iteration), state_path.absolute().parent
    models = folder.parent / NETWORKS_FOLDER
    if folder.name == STATES_FOLDER and models.is_dir():
        return models / name
    return state_path.parent / name


def read_network(path: Path, iteration: int) -> Network:
    """The parameters of a network file, and their moving average if it has one.

    Args:
      path: of the file.
      iteration: of the training state; a file that is named after another one gets a note.

    Raises:
      UserError: no PyTorch; the file is missing, damaged, not a DRSformer or not finite, or the
        average is of another architecture.
    """
    require_torch(f"reading {path}")
    if not path.is_file():
        raise UserError(f"--network {path}: no such file{likelier(path)}")
    content = load_file(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("params"), Mapping):
        raise UserError(
            f"--network {path} holds no weights under params: give the net_g_*.pth that was "
            "written together with the training state"
        )
    config: DRSformerConfig | None = None
    trees: dict[str, Params] = {}
    precisions: list[str] = []
    renaming: list[str] = []
    for key in ("params", "params_ema"):
        if not isinstance(content.get(key), Mapping):
            continue
        source = f"{path} ({key})"
        state, notes = own_names(only_tensors(content[key], path), source)
        renaming += [f"{key}: {note}" for note in notes]
        tensors = stored_tensors(state, path)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        config = config or infer_config(shapes, str(path))
        trees[key] = to_tree(tensors, config, source)
        check_finite_params(trees[key], config, source)
        precisions += [tensor.precision for tensor in tensors.values()]
    assert config is not None
    precision = precision_note(precisions)
    notes = [*renaming, precision] if precision else renaming
    number = re.search(r"_(\d+)$", path.stem)
    if number and int(number[1]) != iteration:
        notes.append(f"{path.name} is named after another step than the state's {iteration:,}")
    return Network(config, trees["params"], trees.get("params_ema"), tuple(notes))
