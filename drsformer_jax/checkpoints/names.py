"""The map between PyTorch's tensors and our parameter tree.

`torch_names` expands the tables of `rules` for one configuration; `to_tree` and `from_tree` move
arrays by it, bit for bit.

Layouts: a convolution (O, I/groups, kh, kw) is (kh, kw, I/groups, O) here, a linear layer
(out, in) is (in, out), everything else is the same. Blocks of a level, and the steps of a MEFC,
are stacked on a leading axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from drsformer_jax.checkpoints.rules import MODULES, SYMBOLIC_SIZE, Layout, Rule, rules_of
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig

Params = dict[str, Any]
Shape = tuple[int, ...]

_TO_OURS: dict[Layout, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}
_TO_TORCH: dict[Layout, tuple[int, ...]] = {"conv": (3, 2, 0, 1), "linear": (1, 0)}

_LISTED_AT_MOST = 20


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Where one PyTorch tensor lives in our tree.

    path: keys from the root of the tree; index: position in the stack, None where nothing is
    stacked; shape: PyTorch's; layout: how its axes map to ours.
    """

    path: tuple[str, ...]
    index: int | None
    shape: Shape
    layout: Layout


def _shape(rule: Rule, sizes: Mapping[str, int]) -> Shape:
    """The rule's shape with numbers for its symbols."""
    values = []
    for size in rule.shape.split():
        symbolic = SYMBOLIC_SIZE.fullmatch(size)
        if symbolic is None:
            values.append(int(size))
            continue
        factor, symbol, half = symbolic.groups()
        values.append(int(factor or 1) * sizes[symbol] // (2 if half else 1))
    return tuple(values)


def torch_names(config: DRSformerConfig) -> dict[str, TensorSpec]:
    """Every tensor of the authors' module of this architecture, in `named_parameters()` order."""
    options = {None: True, "bias": config.bias, "WithBias": config.layer_norm_type == "WithBias"}
    specs: dict[str, TensorSpec] = {}
    for module in MODULES:
        if module.kind == "mefc" and not config.use_mefc:
            continue
        channels = config.dim * module.width
        sizes = {
            "C": channels,
            "H": config.hidden_channels(channels),
            "h": config.heads[module.level],
            "I": config.in_channels,
            "O": config.out_channels,
        }
        for rule, name, path, index in rules_of(module, config.num_blocks[module.level]):
            if options[rule.option]:
                shape = _shape(rule, sizes)
                specs[name] = TensorSpec(tuple(path.split("/")), index, shape, rule.layout)
    return specs


def to_tree(
    state: Mapping[str, np.ndarray], config: DRSformerConfig, source: str = "the state_dict"
) -> Params:
    """Our parameter tree from PyTorch's tensors; the dtype stays, the arrays are copies.

    Raises:
      UserError: tensors are missing, unknown or of another shape; all of them in one message,
        which begins with `source`.
    """
    specs = torch_names(config)
    _check_complete(
        {name: tuple(array.shape) for name, array in state.items()},
        {name: spec.shape for name, spec in specs.items()},
        source,
    )
    stacks: dict[tuple[str, ...], list[np.ndarray]] = {}
    for name, spec in specs.items():
        array = np.asarray(state[name])
        if spec.layout in _TO_OURS:
            array = array.transpose(_TO_OURS[spec.layout])
        stacks.setdefault(spec.path, []).append(array)
    stacked = {spec.path for spec in specs.values() if spec.index is not None}
    tree: Params = {}
    for path, arrays in stacks.items():
        leaf = np.stack(arrays) if path in stacked else np.array(arrays[0], order="C")
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def from_tree(
    params: Mapping[str, Any], config: DRSformerConfig, source: str = "the parameters"
) -> dict[str, np.ndarray]:
    """The inverse of `to_tree`: PyTorch's tensors by name, contiguous, in order, dtype kept.

    Raises:
      UserError: the tree is not one of this architecture; every difference in one message.
    """
    leaves = check_tree(params, config, source)
    specs = torch_names(config)
    state = {}
    for name, spec in specs.items():
        array = np.asarray(leaves["/".join(spec.path)])
        if spec.index is not None:
            array = array[spec.index]
        if spec.layout in _TO_TORCH:
            array = array.transpose(_TO_TORCH[spec.layout])
        state[name] = np.array(array, order="C")
    return state


def check_tree(
    params: Mapping[str, Any], config: DRSformerConfig, source: str = "the parameters"
) -> dict[str, Any]:
    """The leaves of a parameter tree by path, once they are known to be those of `config`.

    Raises:
      UserError: the tree is not one of this architecture; every difference in one message.
    """
    leaves = dict(_flatten(params))
    expected: dict[str, Shape] = {}
    for spec in torch_names(config).values():
        shape = spec.shape
        if spec.layout in _TO_OURS:
            shape = tuple(shape[axis] for axis in _TO_OURS[spec.layout])
        # Specs of a stack come in order: the last index seen gives the depth.
        stack = () if spec.index is None else (spec.index + 1,)
        expected["/".join(spec.path)] = stack + shape
    _check_complete({key: tuple(leaf.shape) for key, leaf in leaves.items()}, expected, source)
    return leaves


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _check_complete(found: Mapping[str, Shape], expected: Mapping[str, Shape], source: str) -> None:
    """Raises a UserError that lists every difference between two sets of named shapes."""
    groups = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "wrong shape": [
            f"{name} {found[name]} should be {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    parts = [f"{len(names)} {kind}: {listing(names)}" for kind, names in groups.items() if names]
    if parts:
        raise UserError(f"{source} does not fit its architecture; {'; '.join(parts)}")


def listing(names: Iterable[str]) -> str:
    """Names separated by commas; of many the first ones and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:_LISTED_AT_MOST])
    more = len(names) - _LISTED_AT_MOST
    return f"{shown}, and {more} more" if more > 0 else shown
