"""The PyTorch network beside ours: the same random weights, the same gradients, in our layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch

from drsformer_jax.checkpoints.names import to_tree
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.torch_drsformer import Attention, DRSformer, network
from reference.perturbed import perturb

Tree = dict[str, Any]


def torch_network(config: DRSformerConfig, seed: int = 0) -> DRSformer:
    """A float32 network of that architecture with random weights."""
    module = network(config)
    perturb(module, seed)
    return module


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}


def gradients_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The gradients that the last backward pass left; zeros where it did not come by."""
    return {
        name: (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad).numpy()
        for name, tensor in module.named_parameters()
    }


@torch.no_grad()
def selection_margin(module: torch.nn.Module, image: torch.Tensor) -> float:
    """Smallest gap between a kept and a dropped attention logit anywhere in the network.

    Where two logits differ by less than rounding, two correct programs may keep different ones:
    comparing float32 outputs as they are means something only above that (a few 1e-6).
    """
    gaps: list[float] = []

    def record(attention: Attention, inputs: tuple[torch.Tensor, ...]) -> None:
        logits, _ = attention.logits_and_values(inputs[0])
        ordered = logits.sort(dim=-1, descending=True).values
        for count in attention.counts(logits.shape[-1]):
            gaps.append((ordered[..., count - 1] - ordered[..., count]).min().item())

    hooks = [
        part.register_forward_pre_hook(record)
        for part in module.modules()
        if isinstance(part, Attention)
    ]
    try:
        module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return min(gaps)


def network_tree(tensors: Mapping[str, np.ndarray], config: DRSformerConfig) -> Tree:
    """Our tree from a whole network's tensors."""
    return to_tree(tensors, config)


def part_tree(tensors: Mapping[str, np.ndarray]) -> Tree:
    """The same for a module of convolutions and plain parameters: one attention, one MSFN."""
    tree: Tree = {}
    for name, array in tensors.items():
        *path, leaf = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        if leaf == "weight":
            node["kernel"] = array.transpose(2, 3, 1, 0)
        else:
            node[leaf] = array
    return tree


def torch_results(
    module: torch.nn.Module, x: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """y and the gradient for x of sum(y * cotangent); that for the weights stays in the module."""
    module.zero_grad(set_to_none=True)
    source = torch.from_numpy(x).requires_grad_()
    y = module(source)
    (y * torch.from_numpy(cotangent)).sum().backward()
    assert source.grad is not None
    return y.detach().numpy(), source.grad.numpy()


def value_and_gradients(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """(params, x, cotangent) -> y, d/dparams, d/dx of sum(y * cotangent), for y = f(params, x)."""

    def both(params: Any, x: jax.Array, cotangent: jax.Array) -> tuple[Any, Any, Any]:
        y, pull_back = jax.vjp(function, params, x)
        return (y, *pull_back(cotangent))

    return jax.jit(both)


def assert_trees_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Same keys, and every array within `tolerance` of the other, relative to its largest entry."""
    expected_leaves = dict(jax.tree_util.tree_leaves_with_path(expected))
    actual_leaves = dict(jax.tree_util.tree_leaves_with_path(actual))
    assert actual_leaves.keys() == expected_leaves.keys()
    wrong = {}
    for path, expected_leaf in expected_leaves.items():
        other, leaf = np.asarray(actual_leaves[path]), np.asarray(expected_leaf)
        assert other.shape == leaf.shape, jax.tree_util.keystr(path)
        error, scale = np.abs(other - leaf).max(), np.abs(leaf).max()
        if not error <= tolerance * scale:  # also where it is not a number
            wrong[jax.tree_util.keystr(path)] = f"{error:.1e} of {scale:.1e}"
    assert wrong == {}
