"""The `.state` file of the authors' training program (BasicSR): read and checked, and made.

It holds {epoch, iter, optimizers: [AdamW's state_dict], schedulers: [state_dict]}. The optimizer
knows a parameter by its number in `named_parameters()` order, which is the order of `torch_views`.
Nothing but tensors and plain containers is unpickled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drsformer_jax.checkpoints.foreign_names import CONTAINERS, only_tensors
from drsformer_jax.checkpoints.names import Params, check_finite_params, to_tree, torch_views
from drsformer_jax.checkpoints.pytorch_file import (
    load_file,
    require_torch,
    stored_tensors,
    torch_tensors,
)
from drsformer_jax.checkpoints.tensors import precision_note
from drsformer_jax.errors import UserError, listing
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.paths import nothing_at
from drsformer_jax.training.optimizer import MOST_STEPS

SUFFIX = ".state"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclasses.dataclass(frozen=True)
class StateFile:
    """What a `.state` file says; the moments stay on disk until `read_moments`.

    Attributes:
      path: of the file.
      iteration: steps done.
      group: settings of the one parameter group, without `params`.
      schedulers: state_dicts, at most one.
      rest: the file's content without `optimizers`.
      parameters: how many the optimizer has.
      entries: {step, exp_avg, exp_avg_sq} by the parameter's number.
    """

    path: Path
    iteration: int
    group: dict[str, Any]
    schedulers: Sequence[Mapping[str, Any]]
    rest: dict[str, Any]
    parameters: int
    entries: Mapping[Any, Any]


@dataclasses.dataclass(frozen=True)
class Moments:
    """AdamW's state as trees like the parameters, float32.

    Attributes:
      updates: how often the parameters were updated: `step`, for the bias correction.
      step_type: how the file keeps `step`: "int" (before PyTorch 1.12), or a tensor's dtype.
      mean, square: exp_avg and exp_avg_sq.
      notes: what was converted.
    """

    updates: int
    step_type: str
    mean: Params
    square: Params
    notes: tuple[str, ...] = ()


def read_state(path: Path) -> StateFile:
    """Reads and checks everything but the moments.

    Raises:
      UserError: no PyTorch; there is no such file, it is damaged, holds Python objects, is no
        training state, or one of something else than a single AdamW over a single group.
    """
    require_torch(f"reading {path}")
    if not path.is_file():
        raise nothing_at(path, "file")
    content = load_file(path)
    _check_is_state(content, path)
    iteration = content["iter"]
    if type(iteration) is not int or not 1 <= iteration <= MOST_STEPS:
        raise UserError(f"{path}: iter must be the number of finished steps, not {iteration!r}")
    optimizer = _only(content["optimizers"], f"{path}: optimizers")
    group = dict(_only(optimizer.get("param_groups"), f"{path}: param_groups"))
    numbers = group.pop("params", None)
    if not isinstance(numbers, list) or numbers != list(range(len(numbers))):
        raise UserError(f"{path}: the parameters of its optimizer are not numbered 0, 1, 2, ...")
    _check_adamw(group, str(path))
    entries = optimizer.get("state")
    if not isinstance(entries, Mapping) or not entries:
        raise UserError(f"{path} has no moments: it was saved before the first step")
    schedulers = content.get("schedulers", [])
    if not isinstance(schedulers, list | tuple) or len(schedulers) > 1:
        raise UserError(f"{path}: schedulers must be a list with one learning-rate schedule")
    if not all(isinstance(schedule, Mapping) for schedule in schedulers):
        raise UserError(f"{path}: the learning-rate schedule in schedulers is no state_dict")
    return StateFile(
        path=path,
        iteration=iteration,
        group=group,
        schedulers=schedulers,
        rest={key: value for key, value in content.items() if key != "optimizers"},
        parameters=len(numbers),
        entries=entries,
    )


def _check_is_state(content: Any, path: Path) -> None:
    keys = [str(key) for key in content] if isinstance(content, Mapping) else []
    if "optimizers" in keys and "iter" in keys:
        return
    if any(key in CONTAINERS or key.endswith(".weight") for key in keys):
        found = "it holds weights, which are converted under a name that does not end in .state"
    else:
        found = f"it holds {listing(keys[:5]) or 'nothing by name'}"
    raise UserError(f"{path} is not a training state (iter, optimizers, schedulers): {found}")


def _only(items: Any, what: str) -> Mapping[str, Any]:
    """The one dictionary in a list."""
    if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
        raise UserError(f"{what} is not a list of dictionaries")
    if len(items) != 1:
        raise UserError(f"{what} has {len(items)} entries, and a run of one network has one")
    only: Mapping[str, Any] = items[0]
    return only


def _check_adamw(group: Mapping[str, Any], source: str) -> None:
    """That the settings are AdamW's.

    Adam's look the same but for `decoupled_weight_decay`, which a PyTorch of before 2.7 does not
    write; without weight decay the two are one.
    """
    betas = group.get("betas")
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise UserError(
            f"{source}: its optimizer is not AdamW: it has {listing(map(str, group))}, no betas"
        )
    for key, value in {key: group.get(key) for key in ("lr", "eps", "weight_decay")}.items():
        if type(value) not in (int, float):
            raise UserError(f"{source}: AdamW's {key} must be a number, not {value!r}")
    if not all(type(beta) in (int, float) for beta in betas):
        raise UserError(f"{source}: AdamW's betas must be numbers, not {betas!r}")
    for key in ("amsgrad", "maximize"):
        if group.get(key):
            raise UserError(f"{source}: its AdamW uses {key}, which training here does not have")
    if group.get("decoupled_weight_decay") is False and group["weight_decay"]:
        raise UserError(
            f"{source}: its optimizer is not AdamW but Adam, with a weight decay of "
            f"{group['weight_decay']}"
        )


def read_moments(state: StateFile, config: DRSformerConfig, params: Params) -> Moments:
    """AdamW's moments for a network of that architecture, with these parameters.

    Half precision becomes float32, which keeps every value; the notes say so.

    Raises:
      UserError: moments are missing, of another network's shapes, not finite or impossible.
    """
    path, names = state.path, list(torch_views(params, config))
    if state.parameters != len(names):
        raise UserError(
            f"{path} is not of this network: its optimizer has {state.parameters} parameters and "
            f"the network {len(names)}"
        )
    entries = _by_name(state, names)
    updates, step_type = _updates({name: entry["step"] for name, entry in entries.items()}, path)
    trees: list[Params] = []
    precisions: list[str] = []
    for key in MOMENTS:
        source = f"{path} ({key})"
        moments = {name: entry[key] for name, entry in entries.items()}
        tensors = stored_tensors(only_tensors(moments, path, "moments"), path)
        precisions += [tensor.precision for tensor in tensors.values()]
        trees.append(to_tree(tensors, config, source))
        check_finite_params(trees[-1], config, source)
    squares = torch_views(trees[1], config)
    negative = [name for name, array in squares.items() if (array < 0).any()]
    if negative:
        raise UserError(f"{path} (exp_avg_sq) has negative values in {listing(negative)}")
    note = precision_note(precisions)
    notes = (f"of the moments, {note}",) if note else ()
    return Moments(updates, step_type, mean=trees[0], square=trees[1], notes=notes)


def _by_name(state: StateFile, names: list[str]) -> dict[str, Mapping[str, Any]]:
    """The optimizer's entries by the parameter's name, complete."""
    wanted = {"step", *MOMENTS}
    strange = [str(number) for number in state.entries if number not in range(len(names))]
    if strange:
        raise UserError(f"{state.path} has moments of parameters it does not have: {strange}")
    entries: dict[str, Mapping[str, Any]] = {}
    for number, name in enumerate(names):
        entry = state.entries.get(number)
        entries[name] = entry if isinstance(entry, Mapping) else {}
    more = sorted({str(key) for entry in entries.values() for key in entry.keys() - wanted})
    if more:
        raise UserError(f"{state.path}: its optimizer is not AdamW: it keeps {listing(more)}")
    missing = [name for name, entry in entries.items() if not wanted <= entry.keys()]
    if missing:
        raise UserError(f"{state.path} lacks step, exp_avg or exp_avg_sq of {listing(missing)}")
    return entries


def _updates(steps: Mapping[str, Any], path: Path) -> tuple[int, str]:
    """The number of updates, which all parameters share, and how it is kept."""
    import torch

    found: dict[tuple[float, str], str] = {}
    for name, step in steps.items():
        if isinstance(step, torch.Tensor) and step.ndim == 0 and not step.is_meta:
            kept = step.item(), str(step.dtype).removeprefix("torch.")
        else:
            kept = step, type(step).__name__
        if type(kept[0]) not in (int, float) or not float(kept[0]).is_integer():
            raise UserError(f"{path}: AdamW's step of {name} must be a number, not {step!r}")
        found.setdefault(kept, name)
    if len(found) > 1:
        differing = listing(f"{name} has {step:g} ({kind})" for (step, kind), name in found.items())
        raise UserError(
            f"{path}: AdamW's step must be the same for all parameters, but {differing}"
        )
    ((updates, step_type),) = found
    if not 1 <= updates <= MOST_STEPS:
        raise UserError(f"{path}: AdamW's step must be a number of updates, not {updates:g}")
    return int(updates), step_type


def optimizer_state(
    moments: Moments, config: DRSformerConfig, group: Mapping[str, Any]
) -> dict[str, Any]:
    """AdamW's state_dict; `group` has the settings of its parameter group, without `params`."""
    import torch

    def step() -> Any:
        # A tensor of its own for every parameter: PyTorch counts in place.
        if moments.step_type in ("int", "float"):
            return int(moments.updates) if moments.step_type == "int" else float(moments.updates)
        return torch.tensor(moments.updates, dtype=getattr(torch, moments.step_type))

    trees = dict(zip(MOMENTS, (moments.mean, moments.square), strict=True))
    tensors = {key: torch_tensors(torch_views(tree, config)) for key, tree in trees.items()}
    state = {
        number: {"step": step(), **{key: of[name] for key, of in tensors.items()}}
        for number, name in enumerate(tensors[MOMENTS[0]])
    }
    return {"state": state, "param_groups": [{**group, "params": list(state)}]}
