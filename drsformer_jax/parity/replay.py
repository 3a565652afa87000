"""Running our network with the decisions of another program.

Which attention logits are among the k largest, and whether a value in front of a ReLU is positive,
is decided by rounding where logits, or the value and zero, agree to rounding. The result jumps at
the first, its gradient at both: in a network of 33 million parameters some of these decisions fall
differently in two float32 programs, both of them right, and hide what is compared. So our network
can follow the other program's decisions where they are as good as its own up to a tolerance; where
they are not, it keeps its own and the difference shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.checkpoints.names import Params
from drsformer_jax.models.attention import TopKSparseAttention
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.layers import Convolution, DepthwiseConvolution
from drsformer_jax.models.mefc import Dense, MixtureStep
from drsformer_jax.parity.recording import Recording, decisions_of

# The collection, and the variables in it.
DECISIONS = "decisions"
CHOSEN, ACTIVE = "chosen", "active"

# What is captured beside them: the network's own choice, what it chose from, and how its signs
# differ from those given: (number, largest value of another sign, largest value).
OWN_CHOICE, LOGITS, FLIPS = "own_choice", "logits", "flips"

_LAYERS = (Convolution, DepthwiseConvolution, Dense)


def decision_tree(recording: Recording, config: DRSformerConfig) -> Params:
    """The decisions that a recording holds, as variables of our network.

    Top-k choices are taken if the recording has those of all attention modules, signs likewise.
    """
    tree: Params = {}
    for kind, name, values in (
        ("top-k", CHOSEN, recording.chosen),
        ("ReLU", ACTIVE, recording.active),
    ):
        decisions = [decision for decision in decisions_of(config) if decision.kind == kind]
        if any(decision.name not in values for decision in decisions):
            continue
        stacks: dict[tuple[str, ...], list[np.ndarray]] = {}
        for decision in decisions:
            stacks.setdefault(decision.path, []).append(values[decision.name])
        stacked = {decision.path for decision in decisions if decision.index is not None}
        for path, arrays in stacks.items():
            node = tree
            for key in path:
                node = node.setdefault(key, {})
            node[name] = np.stack(arrays) if path in stacked else arrays[0]
    return tree


def follow_decisions(tolerance: jax.Array) -> Callable[..., Any]:
    """An interceptor for `nn.intercept_methods`: decisions from outside, where there are any.

    Args:
      tolerance: a choice is followed if logits that it keeps in the place of others are smaller by
        no more than this part of the largest logit; a sign in front of a ReLU if the value is no
        larger than this part of the layer's largest value.
    """

    def intercept(
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        result = function(*args, **kwargs)
        module, method = context.module, context.method_name
        if isinstance(module, TopKSparseAttention) and method == "choose":
            return _choose(module, args[0], jnp.stack(result), tolerance)
        if (isinstance(module, _LAYERS) and method == "__call__") or (
            isinstance(module, MixtureStep) and method == "mix"
        ):
            return jax.tree.map(functools.partial(_rectify, module, tolerance), result)
        return result

    return intercept


def _choose(
    module: nn.Module, logits: jax.Array, own: jax.Array, tolerance: jax.Array
) -> list[jax.Array]:
    """The masks to keep: row by row the given one where it is as good as the own one."""
    module.sow("intermediates", LOGITS, logits)
    module.sow("intermediates", OWN_CHOICE, own)
    chosen: jax.Array | None = module.get_variable(DECISIONS, CHOSEN)
    if chosen is None or chosen.shape != own.shape:
        return list(own)
    best_left_out = jnp.max(jnp.where(own & ~chosen, logits, -jnp.inf), axis=-1, keepdims=True)
    worst_taken = jnp.min(jnp.where(chosen & ~own, logits, jnp.inf), axis=-1, keepdims=True)
    equally_many = jnp.sum(own, axis=-1, keepdims=True) == jnp.sum(chosen, axis=-1, keepdims=True)
    as_good = best_left_out - worst_taken <= tolerance * jnp.max(jnp.abs(logits))
    return list(jnp.where(equally_many & as_good, chosen, own))


def _rectify(module: nn.Module, tolerance: jax.Array, x: jax.Array) -> jax.Array:
    """The value in front of a ReLU, with the given sign where it is as good as zero."""
    given: jax.Array | None = module.get_variable(DECISIONS, ACTIVE)
    if given is None or given.shape[:2] != x.shape[:2]:
        return x
    if x.ndim == 4:
        # A margin of zeros (see `ops.image`) is ours alone.
        borders = [(size - inside) // 2 for size, inside in zip(x.shape, given.shape, strict=True)]
        given = jnp.pad(given, [(border, border) for border in borders])
    if given.shape != x.shape:
        return x
    magnitude = jnp.abs(x)
    scale = jnp.max(magnitude)
    other = (x > 0) != given
    largest = jnp.max(jnp.where(other, magnitude, 0))
    flips = [jnp.sum(other).astype(x.dtype), largest, scale]
    module.sow("intermediates", FLIPS, jnp.stack(flips))
    as_good = magnitude <= tolerance * scale
    return with_signs(x, jnp.where(as_good, given, x > 0))


@jax.custom_jvp
def with_signs(x: jax.Array, active: jax.Array) -> jax.Array:
    """x, where need be moved just across zero: positive exactly where `active`; slope 1."""
    return jnp.where(active, jnp.maximum(x, jnp.finfo(x.dtype).tiny), jnp.minimum(x, 0))


@with_signs.defjvp
def _with_signs_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, Any]
) -> tuple[jax.Array, jax.Array]:
    return with_signs(*primals), tangents[0]
