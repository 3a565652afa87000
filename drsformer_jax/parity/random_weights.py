"""Random weights for comparisons: every parameter away from its trivial start."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from drsformer_jax.checkpoints.names import Shape, to_tree
from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.checkpoints.weights import Weights
from drsformer_jax.models.config import DRSformerConfig


def random_tensors(shapes: Iterable[tuple[str, Shape]], seed: int) -> dict[str, np.ndarray]:
    """PyTorch tensors of these names and shapes, float32, drawn from a seed.

    A fresh network has norms of one, temperatures of one and four equal branch weights: a program
    that leaves one of them out gives the right picture. Here none has its initial value. Kernels
    keep a scale at which activations neither die nor grow, so that errors measured on the output
    mean something.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes:
        noise = rng.standard_normal(shape)
        kind = name.rsplit(".", 1)[-1]
        if kind == "temperature":
            value = 3.0 + 0.8 * noise
        elif kind.startswith("attn"):
            value = 0.25 + 0.15 * noise
        elif kind == "bias":
            value = 0.1 * noise
        elif len(shape) == 1:
            value = 1.0 + 0.2 * noise
        else:
            # The mean over eight experts is small: without a larger gain behind it, a MEFC step
            # would add some hundredths to its state, and what is wrong in an expert little more.
            gain = 4.0 if name.endswith("._out.0.weight") else 0.7
            value = gain * noise / math.sqrt(math.prod(shape[1:]))
        tensors[name] = np.asarray(value, np.float32)
    return tensors


def random_weights(config: DRSformerConfig, seed: int) -> Weights:
    """A network of that architecture with `random_tensors`."""
    shapes = ((name, spec.shape) for name, spec in torch_names(config).items())
    tensors = random_tensors(shapes, seed)
    return Weights(config, to_tree(tensors, config), {"source": f"random:{seed}"})
