"""Tensors under the names that programs around the network give them, brought to its own.

torch.compile, DataParallel, FSDP and every program that holds the network as an attribute put
components in front of the names, some of them inside; thop adds counters to every module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Protocol, TypeVar

from drsformer_jax.checkpoints.torch_names import MODULES, Shape, place_of
from drsformer_jax.errors import UserError, listing

# What wraps modules inside of the network, too.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

# Of thop, which counts operations: one number a module.
_COUNTERS = ("total_ops", "total_params")

_SHOWN_AT_MOST = 3


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
