"""The map between PyTorch's tensors and our parameter tree: arrays move by it, bit for bit.

`to_tree` and `from_tree` are inverse; `torch_views` shows a tree under PyTorch's names without a
copy. Names, shapes and layouts are those of `torch_names`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from drsformer_jax.checkpoints.torch_names import (
    Params,
    Path,
    Shape,
    TensorSpec,
    is_known,
    layout_of,
    leaves_of,
    param_shapes,
    place_of,
    specs_of,
    to_ours,
    to_torch,
    torch_names,
)
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig

_CHANNELS_AT_MOST = 10**6
_LISTED_AT_MOST = 20
_NAME_AT_MOST = 160


class TensorLike(Protocol):
    """A NumPy array, or a tensor that is read when `numpy.asarray` asks for it."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __array__(self) -> np.ndarray: ...


def to_tree(
    tensors: Mapping[str, TensorLike], config: DRSformerConfig, source: str = "the state_dict"
) -> Params:
    """Our parameter tree from PyTorch's tensors: copies, of the dtype that they have in common.

    The tensors are read one after the other, into stacks that are there from the start: of those
    that lie in a file no more than one is in memory beside the tree.

    Raises:
      UserError: tensors are missing, unknown or of another shape; all of them in one message,
        which begins with `source`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not is_known(shapes, config):
        _check_size(config, source)
        expected = {name: spec.shape for name, spec in torch_names(config).items()}
        _check_complete(shapes, expected, source)
    places = {name: place for name in tensors if (place := place_of(name)) is not None}
    depths = Counter(path for path, _ in places.values())
    dtype = np.result_type(*(tensor.dtype for tensor in tensors.values()))
    leaves: dict[Path, np.ndarray] = {}
    for name, (path, index) in places.items():
        array = np.asarray(tensors[name])
        array = array.transpose(to_ours(layout_of(path, array.ndim), array.ndim))
        if path not in leaves:
            stack = () if index is None else (depths[path],)
            leaves[path] = np.empty((*stack, *array.shape), dtype)
        leaves[path][... if index is None else index] = array
    return _nested(leaves)


def _nested(leaves: Mapping[Path, Any]) -> Params:
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
    specs = _checked(params, config, source)
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_of(params)}
    views = {}
    for name, spec in specs.items():
        array = leaves[spec.path] if spec.index is None else leaves[spec.path][spec.index]
        views[name] = array.transpose(to_torch(spec.layout, array.ndim))
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
    _checked(params, config, source)
    return {"/".join(path): leaf for path, leaf in leaves_of(params)}


def _checked(
    params: Mapping[str, Any], config: DRSformerConfig, source: str
) -> Mapping[str, TensorSpec]:
    """PyTorch's tensors of a tree, once it is known to be one of `config`."""
    specs = specs_of(params)
    if specs is not None and is_known({n: spec.shape for n, spec in specs.items()}, config):
        return specs
    _check_size(config, source)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_of(param_shapes(config))}
    in_order = dict.fromkeys(spec.path for spec in torch_names(config).values())
    expected = {"/".join(path): shapes[path] for path in in_order}
    found = {"/".join(path): tuple(leaf.shape) for path, leaf in leaves_of(params)}
    _check_complete(found, expected, source)
    return torch_names(config)


def sizes_of(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many tensors PyTorch makes of a network's parameters, and how many values they have."""
    return len(specs_of(params) or ()), sum(leaf.size for _, leaf in leaves_of(params))


def _check_size(config: DRSformerConfig, source: str) -> None:
    """Raises a UserError for an absurd description, which JAX cannot trace."""
    channels = config.channels[-1]
    widest = max(channels, config.hidden_channels(channels), config.in_channels)
    if widest > _CHANNELS_AT_MOST:
        raise UserError(
            f"{source} describes a network that cannot be built: {widest} channels in a layer, "
            f"more than {_CHANNELS_AT_MOST}"
        )


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
