"""PyTorch modules with random parameters, of which none has its initial value."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from drsformer_jax.parity.random_weights import random_tensors

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def perturb(module: Module, seed: int) -> Module:
    """Gives every parameter a value of `random_tensors`; returns `module`."""
    shapes = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    values = random_tensors(shapes, seed)
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.from_numpy(values[name]))
    return module
