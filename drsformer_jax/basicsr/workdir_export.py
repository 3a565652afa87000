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
from drsformer_jax.checkpoints.torch_names import param_shapes
from drsformer_jax.checkpoints.write_failures import written_or_refused
from drsformer_jax.errors import UserError, damage_in_one_line
from drsformer_jax.files import atomic_path
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.training.optimizer import ADAMW, OptimizerOptions, make_optimizer
from drsformer_jax.training.state import TrainState


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
    config, options, state, saved = _restore(workdir, step)
    network, moments = _as_basicsr(state, config, str(source))
    notes = []
    if "imported" in saved:
        imported = saved["imported"]
        group, rest = from_json(imported["group"]), from_json(imported["rest"])
        moments = dataclasses.replace(moments, step_type=imported["step_type"])
    else:
        group, rest = group_settings(options, step), {"epoch": 0, "iter": step}
        rest["schedulers"] = [schedule_state(options, step)]
        notes.append(_what_stays_behind(saved))
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


def _restore(
    workdir: Path, step: int
) -> tuple[DRSformerConfig, OptimizerOptions, TrainState, dict[str, Any]]:
    """A checkpoint, in the host's memory, and the configuration it was saved with."""
    with contextlib.closing(TrainingCheckpoints(workdir, keep=None)) as checkpoints:
        place = str(checkpoints.path(step))
        with damage_in_one_line(place):
            saved = checkpoints.config(step)
            config = config_from(saved["architecture"], place)
            options = OptimizerOptions(**saved["optimizer"])
            ema = saved["imported"]["ema"] if "imported" in saved else saved["ema_decay"] > 0
        if options.name != ADAMW:
            raise UserError(
                f"{place}: trained by {options.name}, and a {SUFFIX} file holds the moments of "
                "AdamW: convert the parameters alone, to a .pth or .safetensors file"
            )
        like = _layout(config, options, ema)
        with damage_in_one_line(place):
            state, _ = checkpoints.restore(like, step)
    return config, options, state, saved


def _layout(config: DRSformerConfig, options: OptimizerOptions, ema: bool) -> TrainState:
    """Shapes, dtypes and place, the host's memory, of a state of that network."""

    def state(params: Params) -> TrainState:
        opt_state = make_optimizer(options).init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, params if ema else None)

    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host),
        jax.eval_shape(state, param_shapes(config)),
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
    require_torch(f"writing {state_path}")
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
