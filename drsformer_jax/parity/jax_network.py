"""Our network, run so that every module's value is kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.checkpoints.names import Params, from_tree
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import DRSformer
from drsformer_jax.parity.recording import (
    RESTORED,
    Recording,
    SignFlips,
    decisions_of,
    loss_weights,
    probes_of,
)
from drsformer_jax.parity.replay import (
    DECISIONS,
    FLIPS,
    LOGITS,
    OWN_CHOICE,
    decision_tree,
    follow_decisions,
)

# What `jax.jit` takes as compiler options, as a value that can be hashed.
CompilerOptions = tuple[tuple[str, Any], ...]


def record(
    config: DRSformerConfig,
    params: Params,
    image: np.ndarray,
    other: Recording | None = None,
    *,
    tolerance: float = 0.0,
    compiler_options: CompilerOptions = (),
) -> Recording:
    """Runs the network on an image and keeps the value at every probe.

    What is kept of top-k choices are the network's own, even where others were followed.

    Args:
      config: of the network; `precision` "highest" for parity.
      params: float32, or float64 with x64 enabled.
      image: B C H W of the same dtype.
      other: the program whose top-k choices are followed, where it shows them and they are as good
        as ours up to `tolerance` (see `replay`).
      compiler_options: for `jax.jit`.
    """
    # Blocks in a loop: every block is the same program, and it is compiled once.
    config = dataclasses.replace(config, unroll=False)
    decisions = {} if other is None else decision_tree(Recording(chosen=other.chosen), config)
    program = _forward(config, compiler_options)
    restored, captured = program(params, decisions, image, tolerance)
    recording = Recording()
    for probe in probes_of(config):
        if probe.name == RESTORED:
            recording.outputs[RESTORED] = np.asarray(restored)
            continue
        recording.outputs[probe.name] = _captured(captured, probe.path, probe.index, "__call__")
        if probe.kind == "TKSA":
            for kept, what in ((recording.chosen, OWN_CHOICE), (recording.logits, LOGITS)):
                kept[probe.name] = _captured(captured, probe.path, probe.index, what)
    return recording


def record_gradients(
    recording: Recording,
    config: DRSformerConfig,
    params: Params,
    image: np.ndarray,
    other: Recording,
    *,
    tolerance: float = 0.0,
    compiler_options: CompilerOptions = (),
) -> None:
    """Adds the gradient of sum(restored * `loss_weights`) for every parameter, and sign flips.

    Arguments as for `record`; of the other program the signs in front of ReLUs are followed, too.
    """
    # Recomputing blocks bounds the memory, and changes no value.
    config = dataclasses.replace(config, unroll=False, remat=True)
    program = _gradient(config, compiler_options)
    weights = np.asarray(loss_weights(image.shape), image.dtype)
    tree, captured = program(params, weights, decision_tree(other, config), image, tolerance)
    recording.gradients = from_tree(jax.tree.map(np.asarray, tree), config)
    recording.flips = _sign_flips(captured, config, other)


def _captured(captured: Params, path: tuple[str, ...], index: int | None, what: str) -> np.ndarray:
    """One value among the intermediates that Flax collected."""
    node: Any = captured
    for key in path:
        node = node[key]
    # Flax keeps a tuple of all values of that name; a subclass's own comes after its parent's.
    # It is an array, an image, or of a step of a scan (image, nothing).
    array = np.asarray(jax.tree.leaves(node[what][-1])[0])
    return array if index is None else array[index]


def _sign_flips(captured: Params, config: DRSformerConfig, other: Recording) -> SignFlips | None:
    """None where the other program does not show all its signs, in our shapes."""
    found = []
    for decision in decisions_of(config):
        if decision.kind == "ReLU":
            if decision.name not in other.active:
                return None
            try:
                flips = _captured(captured, decision.path, decision.index, FLIPS)
            except KeyError:  # signs of another shape were not compared
                return None
            number, largest, scale = flips
            found.append((float(largest / scale) if number else 0.0, int(number), decision.name))
    largest_flip, _, layer = max(found)
    total = sum(active.size for active in other.active.values())
    return SignFlips(sum(number for _, number, _ in found), total, largest_flip, layer)


def _restore(
    config: DRSformerConfig,
    params: Params,
    decisions: Params,
    image: jax.Array,
    tolerance: jax.Array,
    **capture: Any,
) -> tuple[jax.Array, Params]:
    """The restored image and the intermediates, decisions followed."""
    with nn.intercept_methods(follow_decisions(tolerance)):
        residual, captured = DRSformer(config).apply(
            {"params": params, DECISIONS: decisions}, image, mutable=["intermediates"], **capture
        )
    return image + residual, captured["intermediates"]


@functools.lru_cache(maxsize=4)
def _forward(config: DRSformerConfig, options: CompilerOptions) -> Callable[..., Any]:
    """(params, decisions, image, tolerance) -> restored image, intermediates."""
    probed = {probe.path for probe in probes_of(config)}

    def is_probed(module: nn.Module, method: str) -> bool:
        return method == "__call__" and tuple(module.path) in probed

    forward = functools.partial(_restore, config, capture_intermediates=is_probed)
    return jax.jit(forward, compiler_options=dict(options))


@functools.lru_cache(maxsize=4)
def _gradient(config: DRSformerConfig, options: CompilerOptions) -> Callable[..., Any]:
    """(params, weights, decisions, image, tolerance) -> gradient of the loss, intermediates."""

    def loss(params: Params, weights: jax.Array, *others: Any) -> tuple[jax.Array, Params]:
        restored, captured = _restore(config, params, *others)
        return jnp.sum(restored * weights), captured

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=dict(options))
