"""A workdir as a run of BasicSR, the authors' training program; the inverse of `workdir_import`.

An imported checkpoint is written back as it came. After steps here the state is what PyTorch and
the authors' program would have written, made from the run's own configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from drsformer_jax.basicsr.network import Network, place_for_network
from drsformer_jax.basicsr.plain_values import from_json
from drsformer_jax.basicsr.settings import group_settings, schedule_state
from drsformer_jax.basicsr.state import SUFFIX, Moments, optimizer_state
from drsformer_jax.basicsr.workdir_import import Conversion, is_counted
from drsformer_jax.checkpoints.infer import config_from
from drsformer_jax.checkpoints.names import Params, check_finite_params, torch_views
from drsformer_jax.checkpoints.pytorch_file import require_torch, torch_tensors
from drsformer_jax.checkpoints.runs import DIRECTORY, TrainingCheckpoints
from drsformer_jax.checkpoints.write_failures import written_or_refused
from drsformer_jax.errors import UserError, damage_in_one_line
from drsformer_jax.files import atomic_path
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import param_shapes
from drsformer_jax.training.optimizer import ADAMW, OptimizerOptions, make_optimizer
from drsformer_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class _Saved:
    """What a checkpoint's configuration says.

    Attributes:
      architecture: of the network.
      optimizer: of the run.
      ema: whether there is a moving average.
      imported: the group and the rest of the training state that the run came from, and how that
        keeps `step`; None: it began here.
      note: what has no place in a training state, if it began here.
    """

    architecture: DRSformerConfig
    optimizer: OptimizerOptions
    ema: bool
    imported: tuple[dict[str, Any], dict[str, Any], str] | None
    note: str


def export_run(
    source: Path, state_path: Path, network_path: Path | None, force: bool
) -> Conversion:
    """Writes a training state and its network from a workdir.

    Args:
      source: a workdir (its newest checkpoint) or WORKDIR/checkpoints/STEP.
      state_path: the `.state` file.
      network_path: of the network file; None: where BasicSR looks for it if its folders are
        there, else beside the state.
      force: replace files that are there.

    Raises:
      UserError: there is no such checkpoint, it is damaged or not finite; or a file is there. Then
        neither file is written.
    """
    workdir, step = _checkpoint(source)
    if state_path.stem.isdecimal() and int(state_path.stem) != step:
        raise UserError(
            f"{state_path}: the checkpoint of {source} is of step {step:,}: name it "
            f"{step}{SUFFIX}, or give the workdir's checkpoints/{int(state_path.stem)}"
        )
    network_path = place_for_network(state_path, step) if network_path is None else network_path
    for path in (state_path, network_path):
        _check_file(path, force)
    require_torch(f"writing {state_path}")
    state, saved = _restore(workdir, step)
    config = saved.architecture
    network, moments = _as_basicsr(state, config, str(source))
    notes = []
    if saved.imported is not None:
        group, rest, step_type = saved.imported
        moments = dataclasses.replace(moments, step_type=step_type)
    else:
        group, rest = group_settings(saved.optimizer, step), {"epoch": 0, "iter": step}
        rest["schedulers"] = [schedule_state(saved.optimizer, step)]
        notes.append(saved.note)
    _write(state_path, network_path, network, optimizer_state(moments, config, group), rest)
    return Conversion(
        source=f"{source} (step {step:,})",
        destination=f"{state_path} and {network_path}",
        network=network,
        step=step,
        notes=notes,
    )


def _checkpoint(source: Path) -> tuple[Path, int]:
    """Workdir and step of a workdir, or of one of its checkpoints."""
    source = source.absolute()
    if source.name.isdecimal() and source.parent.name == DIRECTORY and source.is_dir():
        return source.parent.parent, int(source.name)
    if not (source / DIRECTORY).is_dir():
        raise UserError(
            f"{source}: only a training workdir (it has a folder {DIRECTORY}/), or WORKDIR/"
            f"{DIRECTORY}/STEP, becomes a {SUFFIX} file"
        )
    with contextlib.closing(TrainingCheckpoints(source, keep=None)) as checkpoints:
        step = checkpoints.latest_step()
    if step is None:
        raise UserError(f"{source} has no checkpoint yet: let training reach its first one")
    return source, step


def _check_file(path: Path, force: bool) -> None:
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}, make it first")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file name")
    if path.exists() and not force:
        raise UserError(f"{path} exists: give another name, or --force to replace it")


def _restore(workdir: Path, step: int) -> tuple[TrainState, _Saved]:
    """A checkpoint, in the host's memory, and the configuration it was saved with."""
    with contextlib.closing(TrainingCheckpoints(workdir, keep=None)) as checkpoints:
        place = str(checkpoints.path(step))
        with damage_in_one_line(place):
            saved = _read(checkpoints.config(step), place)
        if saved.optimizer.name != ADAMW:
            raise UserError(
                f"{place}: trained by {saved.optimizer.name}, and a {SUFFIX} file holds the "
                "moments of AdamW: convert the parameters alone, to a .pth or .safetensors file"
            )
        like = _layout(saved)
        with damage_in_one_line(place):
            state, _ = checkpoints.restore(like, step)
    return state, saved


def _read(config: Mapping[str, Any], place: str) -> _Saved:
    """What a configuration says, all of it at once: whatever it lacks, nothing is written."""
    imported = note = None
    if "imported" in config:
        values = config["imported"]
        imported = (
            dict(from_json(values["group"])),
            dict(from_json(values["rest"])),
            _checked_type(values["step_type"]),
        )
        ema = values["ema"]
    else:
        note, ema = _what_stays_behind(config), config["ema_decay"] > 0
    return _Saved(
        config_from(config["architecture"], place),
        OptimizerOptions(**config["optimizer"]),
        ema,
        imported,
        note or "",
    )


def _checked_type(name: str) -> str:
    """How a training state keeps `step`; ValueError if PyTorch has no such dtype."""
    import torch

    if name not in ("int", "float") and not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"no dtype: {name}")
    return name


def _layout(saved: _Saved) -> TrainState:
    """Shapes, dtypes and place, the host's memory, of a state of that network."""

    def state(params: Params) -> TrainState:
        opt_state = make_optimizer(saved.optimizer).init(params)
        ema_params = params if saved.ema else None
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, ema_params)

    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host),
        jax.eval_shape(state, param_shapes(saved.architecture)),
    )


def _as_basicsr(state: TrainState, config: DRSformerConfig, source: str) -> tuple[Network, Moments]:
    """Parameters and moments of a state, finite."""
    parts = jax.tree.leaves(state.opt_state, is_leaf=is_counted)
    (adam,) = [part for part in parts if isinstance(part, optax.ScaleByAdamState)]
    trees = {"params": state.params, "exp_avg": adam.mu, "exp_avg_sq": adam.nu}
    if state.ema_params is not None:
        trees["params_ema"] = state.ema_params
    for key, tree in trees.items():
        check_finite_params(tree, config, f"{source} ({key})")
    network = Network(config, state.params, state.ema_params, ())
    return network, Moments(int(adam.count), "float32", adam.mu, adam.nu)


def _write(
    state_path: Path,
    network_path: Path,
    network: Network,
    optimizer: Mapping[str, Any],
    rest: Mapping[str, Any],
) -> None:
    """Writes {**rest, optimizers: [...]} and {params[, params_ema]}: both files or neither."""
    import torch

    trees = {"params": network.params, "params_ema": network.ema}
    with (
        written_or_refused(f"{state_path} and {network_path}"),
        atomic_path(state_path) as state_path_now,
        atomic_path(network_path) as network_path_now,
        # Python's files, whose errors say what the system said.
        state_path_now.open("wb") as state_file,
        network_path_now.open("wb") as network_file,
    ):
        networks = {
            key: torch_tensors(torch_views(tree, network.config))
            for key, tree in trees.items()
            if tree is not None
        }
        torch.save(networks, network_file)
        # In the order in which BasicSR writes them.
        first = {key: value for key, value in rest.items() if key != "schedulers"}
        last = {key: value for key, value in rest.items() if key == "schedulers"}
        torch.save({**first, "optimizers": [optimizer], **last}, state_file)


def _what_stays_behind(saved: Mapping[str, Any]) -> str:
    """What BasicSR takes from its option file and not from the state."""
    optimizer = saved["optimizer"]
    return (
        "epoch is 0, as steps here are not counted by epochs; the option file must say what the "
        f"state cannot: gradient clipping {optimizer['clip_norm']:g}, warm-up "
        f"{optimizer['warmup_steps']}, moving average {saved['ema_decay']:g}, batch "
        f"{saved['global_batch']}, patch {saved['patch_size']}"
    )
