"""Modules of one kind, one after the other, with their parameters stacked.

A loop (quick to compile) and modules written out (quick to run on CPU) read the same arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.layers import is_watched
from drsformer_jax.ops.execution import CPU
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.outlining import outlined

Params = dict[str, Any]

# Variables of modules that a scan repeats, stacked on a leading axis: the parameters, what Flax
# captures on request, and decisions that parity checks give from outside (see `parity.replay`).
STACKED: dict[Any, int] = {"params": 0, "intermediates": 0, "decisions": 0}


def repeated(
    parent: nn.Module, name: str, length: int, module: Callable[..., nn.Module], *options: Any
) -> Callable[..., Image]:
    """The function of an image (and of what each module gets beside it, stacked on axis 1).

    Args:
      parent: the module that holds the parameters, under `name`.
      length: how many.
      module: called with an image and perhaps more, it returns the next image and None.
      options: of each of them; hashable.
    """

    def run(x: Image, *each: jax.Array) -> Image:
        if x.how.is_unrolled and not is_watched(parent):
            apply = _outlined(module, options, x.how.is_recomputed)
            stacked = parent.variables["params"][name]
            for i in range(length):
                x = apply(block_params(stacked, i), x, *(values[:, i] for values in each))
            return x
        # Inside a loop nothing can be merged across iterations.
        inside: Any = nn.remat(module, prevent_cse=False) if x.how.is_recomputed else module
        loop = nn.scan(
            inside,
            variable_axes=STACKED,
            split_rngs={"params": True},
            in_axes=1,
            length=length,
            check_constancy_invariants=False,  # which takes tracing every module twice
        )
        x, _ = loop(*options, name=name)(x, *each)
        return x

    return run


@functools.lru_cache(maxsize=64)
def _outlined(
    module: Callable[..., nn.Module], options: tuple[Any, ...], is_recomputed: bool = True
) -> Callable[..., Image]:
    """A module as a function of its parameters and arguments: each use is a call, compiled once.

    How it is computed comes with the image: another way is another program.
    """
    detached = module(*options, parent=None)

    def apply(params: Params, *arguments: Any) -> Image:
        image: Image = detached.apply({"params": params}, *arguments)[0]
        return image

    return outlined(apply, is_recomputed)


def block_params(stacked: Params | tuple[Params, ...], index: int) -> Params:
    """The parameters of one of several modules, stacked on a leading axis or one after another."""
    if isinstance(stacked, tuple):
        return stacked[index]
    params: Params = jax.tree.map(lambda stack: stack[index], stacked)
    return params


def blocks_apart(config: DRSformerConfig, params: Params) -> Params:
    """Parameters for a forward on CPU, the arrays of each block apart.

    Where blocks are written out, taking each one's parameters out of a stack is hundreds of small
    programs to compile: a third of the time that the forward takes to compile.

    Args:
      config: of the network.
      params: as from `init_params`; or apart already, which are left so.

    Returns:
      The parameters as `restore` takes them, too; the same ones where blocks are looped, or not on
      CPU.
    """
    if config.target != CPU or not config.is_unrolled:
        return params

    def apart(stacked: Any) -> Any:
        if isinstance(stacked, tuple):
            return stacked
        stacked = jax.tree.map(np.asarray, stacked)  # whose slices are no copies
        length = len(jax.tree.leaves(stacked)[0])
        return tuple(block_params(stacked, i) for i in range(length))

    found: Params = {}
    for name, part in params.items():
        children = part if isinstance(part, dict) else {}
        if "ffn" in children:  # a level
            found[name] = apart(part)
        elif "steps" in children:  # a compensator
            found[name] = {**part, "steps": apart(part["steps"])}
        else:
            found[name] = part
    return found
