"""Where in what `torch.save` wrote the weights lie: under some key, or at the top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drsformer_jax.checkpoints.foreign_names import split_name
from drsformer_jax.errors import UserError, listing

# In order of preference. `params` comes first even where an average (`params_ema`) lies beside
# it, because it is what the authors' test program loads: the same file, the same picture.
CONTAINERS = (
    "params",
    "params_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "net_g",
    "netG",
    "generator",
    "network",
    "ema",
    "model_ema",
)
BARE = "bare"

_DEPTH_AT_MOST = 3

# Keys from the top of the file on; none for the top itself.
_Place = tuple[str, ...]


def select_weights(content: Any, path: Path) -> tuple[str, Mapping[str, Any], list[str]]:
    """(container, tensors by name, what is to be said of the choice) of what a file holds.

    Of several places with tensors of a DRSformer the first by `CONTAINERS` is taken; one that is
    called otherwise only where it is the only one.

    Raises:
      UserError: there are no weights, something else is among them, or the choice is open.
    """
    import torch

    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name")
    places = dict(_places(content, (), {}))
    if not places:
        # Of another network, or of none: what is wrong with them is found by whoever reads them.
        places = {(k,): content[k] for k in CONTAINERS if isinstance(content.get(k), Mapping)}
    if not places and any(isinstance(value, torch.Tensor) for value in content.values()):
        places = {(): content}
    if not places and ("optimizers" in content or "param_groups" in content):
        raise UserError(
            f"{path} is the state of an optimizer, without weights: give the network's own file, "
            "net_g_*.pth"
        )
    if not places:
        keys = listing([str(key) for key in content]) or "nothing"
        raise UserError(f"{path} holds no weights under {', '.join(CONTAINERS)}: it has {keys}")
    place, *others = sorted(places, key=_rank)
    if others and _rank(place) == _rank(others[0]):
        raise UserError(
            f"{path} holds several networks ({', '.join(map(_called, places))}): save one of them "
            "alone, as torch.save({'params': model.state_dict()}, path) does"
        )
    also = " and ".join(map(_called, others))
    notes = [f"used {_called(place)}; the file also has {also}"] if others else []
    return _called(place), only_tensors(places[place], path), notes


def only_tensors(state: Mapping[Any, Any], path: Path, what: str = "weights") -> Mapping[str, Any]:
    """The state, once it is known to hold nothing but tensors by name; `what` they are.

    Raises:
      UserError: it does not.
    """
    import torch

    odd = [
        f"{name} ({type(value).__name__})"
        for name, value in state.items()
        if not isinstance(value, torch.Tensor) or not isinstance(name, str)
    ]
    if odd:
        raise UserError(f"{path} has things that are no tensors among its {what}: {listing(odd)}")
    return state


def _places(
    content: Mapping[Any, Any], place: _Place, known: dict[int, bool]
) -> Iterator[tuple[_Place, Mapping[Any, Any]]]:
    """Everything that holds tensors of a DRSformer.

    Args:
      known: by the identity of what has been looked at, which a file may repeat without end,
        whether it does.
    """
    new = id(content) not in known
    if new:
        known[id(content)] = _holds_network(content)
    if known[id(content)]:
        yield place, content
    if new and len(place) < _DEPTH_AT_MOST:
        for key, value in content.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from _places(value, (*place, key), known)


def _holds_network(state: Mapping[Any, Any]) -> bool:
    import torch

    return any(
        isinstance(value, torch.Tensor) and isinstance(name, str) and split_name(name) is not None
        for name, value in state.items()
    )


def _rank(place: _Place) -> list[int]:
    known = dict(zip(CONTAINERS, range(len(CONTAINERS)), strict=True))
    return [known.get(key, len(CONTAINERS)) for key in place or (BARE,)]


def _called(place: _Place) -> str:
    return listing([".".join(place) or BARE])
