"""The network's tensors in what other programs save: under which key they lie, by which names.

Of a file that `torch.save` wrote some key holds the weights, or the top does (`select_weights`).
Their names are then brought to the network's own (`own_names`): torch.compile, DataParallel, FSDP
and every program that holds the network as an attribute put components in front of the names, some
of them inside; thop adds counters to every module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from drsformer_jax.checkpoints.torch_names import MODULES, Shape, place_of
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

# What wraps modules inside of the network, too.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

# Of thop, which counts operations: one number a module.
_COUNTERS = ("total_ops", "total_params")

_SHOWN_AT_MOST = 3


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


class _Shaped(Protocol):
    @property
    def shape(self) -> Shape: ...


T = TypeVar("T", bound=_Shaped)


def own_names(state: Mapping[str, T], source: str) -> tuple[dict[str, T], list[str]]:
    """The tensors under the network's own names, and what was done for it, in words.

    What is in front of a name of the network, whatever it is, is taken off, and wrappers inside
    are; thop's counters are left out. A tensor that is not one of the network's keeps its name.

    Raises:
      UserError: two tensors would have one name, or they are of two networks by what holds them.
    """
    own: dict[str, T] = {}
    origin: dict[str, str] = {}
    taken_off: Counter[str] = Counter()
    counters: list[str] = []
    twice: list[str] = []
    for name, tensor in state.items():
        if name.rpartition(".")[2] in _COUNTERS and math.prod(tensor.shape) == 1:
            counters.append(name)
            continue
        short, extra = split_name(name) or (name, "")
        if short in own:
            twice.append(f"{origin[short]} and {name}")
            continue
        own[short], origin[short] = tensor, name
        taken_off[extra] += 1
    if twice:
        raise UserError(
            f"{source} holds tensors of the network more than once ({listing(twice[:1])}; "
            f"{len(twice)} in all): save one network alone"
        )
    holders = {_without_wrappers(extra) for extra in taken_off} - {""}
    if len(holders) > 1:
        raise UserError(
            f"{source} holds tensors of several networks ({listing(sorted(holders))}): save one "
            "network alone"
        )
    return own, [note for note in (_prefix_note(taken_off), _counter_note(counters)) if note]


def split_name(name: str) -> tuple[str, str] | None:
    """(the network's name, what is to be taken off); None if it is no tensor of a DRSformer."""
    parts = name.split(".")
    starts = [i for i, part in enumerate(parts) if part in MODULES]
    if not starts:
        return None
    # No module of the network has a part that is called like another module.
    start = starts[-1]
    short = ".".join(part for part in parts[start:] if part not in _WRAPPERS)
    if place_of(short) is None:
        return None
    extra = [*parts[:start], *(part for part in parts[start:] if part in _WRAPPERS)]
    return short, "".join(f"{part}." for part in extra)


def _without_wrappers(extra: str) -> str:
    return "".join(f"{part}." for part in extra.split(".") if part and part not in _WRAPPERS)


def _prefix_note(taken_off: Counter[str]) -> str | None:
    found = [(extra, count) for extra, count in taken_off.most_common() if extra]
    if not found:
        return None
    shown = [f"'{listing([extra])}' off {count}" for extra, count in found[:_SHOWN_AT_MOST]]
    rest = sum(count for _, count in found[_SHOWN_AT_MOST:])
    more = f", and others off {rest}" if rest else ""
    return f"took {', '.join(shown)}{more} of {taken_off.total()} tensors' names"


def _counter_note(counters: list[str]) -> str | None:
    if not counters:
        return None
    more = f", and {len(counters) - _SHOWN_AT_MOST} more" if len(counters) > _SHOWN_AT_MOST else ""
    return f"left out what thop has counted: {listing(counters[:_SHOWN_AT_MOST])}{more}"
