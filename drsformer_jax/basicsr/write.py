"""Writes a training state and its network as BasicSR does: both files or neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drsformer_jax.basicsr.network import Network
from drsformer_jax.basicsr.state import MOMENTS, Moments
from drsformer_jax.checkpoints.names import Params, torch_views
from drsformer_jax.checkpoints.pytorch_file import require_torch
from drsformer_jax.checkpoints.write_failures import written_or_refused
from drsformer_jax.files import atomic_path
from drsformer_jax.models.config import DRSformerConfig


def write_basicsr(
    state_path: Path,
    network_path: Path,
    network: Network,
    moments: Moments,
    group: Mapping[str, Any],
    rest: Mapping[str, Any],
) -> None:
    """Writes {**rest, optimizers: [...]} and {params[, params_ema]}; what is there is replaced.

    Args:
      state_path, network_path: in folders that exist.
      network: its parameters and moving average.
      moments: of AdamW.
      group: settings of its parameter group, without `params`.
      rest: epoch, iter and schedulers.

    Raises:
      UserError: no PyTorch, or a file cannot be written.
    """
    require_torch(f"writing {state_path}")
    import torch

    config = network.config
    with (
        written_or_refused(f"{state_path} and {network_path}"),
        atomic_path(state_path) as state_path_now,
        atomic_path(network_path) as network_path_now,
        # Python's files, whose errors say what the system said.
        state_path_now.open("wb") as state_file,
        network_path_now.open("wb") as network_file,
    ):
        trees = {"params": network.params, "params_ema": network.ema}
        torch.save(
            {key: _tensors(tree, config) for key, tree in trees.items() if tree is not None},
            network_file,
        )
        entries = _entries(moments, config)
        optimizer = {"state": entries, "param_groups": [{**group, "params": list(entries)}]}
        # In the order in which BasicSR writes them.
        first = {key: value for key, value in rest.items() if key != "schedulers"}
        last = {key: value for key, value in rest.items() if key == "schedulers"}
        torch.save({**first, "optimizers": [optimizer], **last}, state_file)


def _tensors(tree: Params, config: DRSformerConfig) -> dict[str, Any]:
    """Contiguous PyTorch tensors by name."""
    import torch

    views = torch_views(tree, config)
    return {name: torch.from_numpy(np.array(view, order="C")) for name, view in views.items()}


def _entries(moments: Moments, config: DRSformerConfig) -> dict[int, dict[str, Any]]:
    """AdamW's state by the parameter's number."""
    import torch

    def step() -> Any:
        # A tensor of its own for every parameter: PyTorch counts in place.
        if moments.step_type in ("int", "float"):
            return int(moments.updates) if moments.step_type == "int" else float(moments.updates)
        return torch.tensor(moments.updates, dtype=getattr(torch, moments.step_type))

    tensors = [_tensors(tree, config) for tree in (moments.mean, moments.square)]
    return {
        number: {
            "step": step(),
            **{key: of[name] for key, of in zip(MOMENTS, tensors, strict=True)},
        }
        for number, name in enumerate(tensors[0])
    }
