"""The map between PyTorch's tensors and our parameter tree.

`torch_names` expands the tables of `rules` for one configuration; `to_tree` and `from_tree` move
arrays by it, bit for bit; `torch_views` shows a tree under PyTorch's names without a copy.

Layouts: a convolution (O, I/groups, kh, kw) is (kh, kw, I/groups, O) here, a linear layer
(out, in) is (in, out), everything else is the same. Blocks of a level, and the steps of a MEFC,
are stacked on a leading axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from drsformer_jax.checkpoints.rules import MODULES, SYMBOLIC_SIZE, Layout, Rule, rules_of
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig

Params = dict[str, Any]
Shape = tuple[int, ...]

_TO_OURS: dict[Layout, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}
_TO_TORCH: dict[Layout, tuple[int, ...]] = {"conv": (3, 2, 0, 1), "linear": (1, 0)}

_LISTED_AT_MOST = 20
_NAME_AT_MOST = 160


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


class TensorLike(Protocol):
    """A NumPy array, or a tensor that is read when `numpy.asarray` asks for it."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __array__(self) -> np.ndarray: ...


def to_tree(
    state: Mapping[str, TensorLike], config: DRSformerConfig, source: str = "the state_dict"
) -> Params:
    """Our parameter tree from PyTorch's tensors: copies, of the dtype that they have in common.

    The tensors are read one after the other, into stacks that are there from the start: of those
    that lie in a file no more than one is in memory beside the tree.

    Raises:
      UserError: tensors are missing, unknown or of another shape; all of them in one message,
        which begins with `source`.
    """
    specs = torch_names(config)
    _check_complete(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        {name: spec.shape for name, spec in specs.items()},
        source,
    )
    dtype = np.result_type(*(tensor.dtype for tensor in state.values()))
    leaves = {path: np.empty(shape, dtype) for path, shape in _leaf_shapes(specs).items()}
    for name, spec in specs.items():
        array = np.asarray(state[name])
        position = ... if spec.index is None else spec.index
        leaves[spec.path][position] = array.transpose(_axes(spec, _TO_OURS))
    tree: Params = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def torch_views(
    params: Mapping[str, Any], config: DRSformerConfig, source: str = "the parameters"
) -> dict[str, np.ndarray]:
    """A tree's arrays under PyTorch's names, in its shapes and order: views, hence not contiguous.

    Raises:
      UserError: the tree is not one of this architecture; every difference in one message.
    """
    leaves = {key: np.asarray(leaf) for key, leaf in check_tree(params, config, source).items()}
    views = {}
    for name, spec in torch_names(config).items():
        leaf = leaves["/".join(spec.path)]
        array = leaf if spec.index is None else leaf[spec.index]
        views[name] = array.transpose(_axes(spec, _TO_TORCH))
    return views


def from_tree(
    params: Mapping[str, Any], config: DRSformerConfig, source: str = "the parameters"
) -> dict[str, np.ndarray]:
    """The inverse of `to_tree`: PyTorch's tensors by name, contiguous copies in order, dtype kept.

    Raises:
      UserError: the tree is not one of this architecture; every difference in one message.
    """
    views = torch_views(params, config, source)
    return {name: np.array(view, order="C") for name, view in views.items()}


def check_tree(
    params: Mapping[str, Any], config: DRSformerConfig, source: str = "the parameters"
) -> dict[str, Any]:
    """The leaves of a parameter tree by path, once they are known to be those of `config`.

    Raises:
      UserError: the tree is not one of this architecture; every difference in one message.
    """
    leaves = dict(_flatten(params))
    shapes = _leaf_shapes(torch_names(config)).items()
    expected = {"/".join(path): shape for path, shape in shapes}
    _check_complete({key: tuple(leaf.shape) for key, leaf in leaves.items()}, expected, source)
    return leaves


def _axes(spec: TensorSpec, layouts: Mapping[Layout, tuple[int, ...]]) -> tuple[int, ...]:
    """The order in which one side takes the other's axes."""
    return layouts.get(spec.layout, tuple(range(len(spec.shape))))


def _leaf_shapes(specs: Mapping[str, TensorSpec]) -> dict[tuple[str, ...], Shape]:
    """Shapes of the tree's arrays by path."""
    shapes = {}
    for spec in specs.values():
        # Specs of a stack come in order: the last index seen gives the depth.
        stack = () if spec.index is None else (spec.index + 1,)
        shapes[spec.path] = stack + tuple(spec.shape[axis] for axis in _axes(spec, _TO_OURS))
    return shapes


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
    """Names separated by commas, on one line; of many the first ones and how many more there are.

    Names come from files that may be anything: what would break the line is escaped, and of a
    long name only the beginning is shown.
    """
    names = list(names)
    shown = ", ".join(_printable(name) for name in names[:_LISTED_AT_MOST])
    more = len(names) - _LISTED_AT_MOST
    return f"{shown}, and {more} more" if more > 0 else shown


def _printable(name: str) -> str:
    clipped = name if len(name) <= _NAME_AT_MOST else f"{name[:_NAME_AT_MOST]}..."
    return clipped if clipped.isprintable() else ascii(clipped)
