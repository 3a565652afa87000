"""The map between PyTorch's tensors and our parameter tree: arrays move by it, bit for bit.

`to_tree` and `from_tree` are inverse; `torch_views` shows a tree under PyTorch's names without a
copy. Names, shapes and layouts are those of `torch_names`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from drsformer_jax.checkpoints.torch_names import (
    Params,
    Path,
    Shape,
    check_complete,
    check_size,
    check_tensors,
    is_known,
    layout_of,
    leaves_of,
    place_of,
    specs_of,
    to_ours,
    to_torch,
    torch_names,
)
from drsformer_jax.errors import UserError, listing
from drsformer_jax.models.config import DRSformerConfig


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
    check_tensors(shapes, config, source)
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
    leaves = check_tree(params, config, source)
    specs = specs_of(params)
    assert specs is not None
    views = {}
    for name, spec in specs.items():
        array = np.asarray(leaves["/".join(spec.path)])
        array = array if spec.index is None else array[spec.index]
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
    leaves = {"/".join(path): leaf for path, leaf in leaves_of(params)}
    specs = specs_of(params)
    if specs is None or not is_known({n: spec.shape for n, spec in specs.items()}, config):
        from drsformer_jax.models.drsformer import param_shapes

        check_size(config, source)
        shapes = {path: tuple(leaf.shape) for path, leaf in leaves_of(param_shapes(config))}
        in_order = dict.fromkeys(spec.path for spec in torch_names(config).values())
        expected = {"/".join(path): shapes[path] for path in in_order}
        found = {key: tuple(leaf.shape) for key, leaf in leaves.items()}
        check_complete(found, expected, source)
    return leaves


def sizes_of(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many tensors PyTorch makes of a network's parameters, and how many values they have."""
    return len(specs_of(params) or ()), sum(leaf.size for _, leaf in leaves_of(params))


def check_finite(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Raises a UserError that names the tensors with NaN or infinite values, if there are any.

    The tensors are as they were converted: a float64 value beyond float32 is infinite here.
    """
    bad = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{source} has NaN or infinite values (in float32) in {listing(bad)}")


def check_finite_params(params: Mapping[str, Any], config: DRSformerConfig, source: str) -> None:
    """The same for a network's parameters, or a tree like them; named are PyTorch's tensors."""
    # Their names are made only where they are to be told.
    if not all(np.isfinite(leaf).all() for _, leaf in leaves_of(params)):
        check_finite(torch_views(params, config), source)
