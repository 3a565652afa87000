"""One comparison from beginning to end: our network against a PyTorch program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.checkpoints.weights import Weights
from drsformer_jax.parity import jax_network
from drsformer_jax.parity.comparison import (
    beyond,
    compare_gradients,
    compare_modules,
)
from drsformer_jax.parity.recording import RESTORED
from drsformer_jax.parity.report import ParityReport


def compare_with_pytorch(
    weights: Weights,
    image: np.ndarray,
    *,
    dtype: str,
    tolerance: float,
    reference: str | None = None,
    gradients: bool = False,
    settings: dict[str, Any] | None = None,
    compiler_options: jax_network.CompilerOptions = (),
    say: Callable[[str], None] = lambda text: None,
) -> ParityReport:
    """Runs both networks with the same weights on the same image.

    Args:
      weights: of a network; cast to `dtype`.
      image: `H W C`, RGB in [0, 1], height and width multiples of 8.
      dtype: "float32" or "float64".
      tolerance: of values, relative (`comparison.Difference.within`).
      reference: FILE.py:CLASS, or None for our own PyTorch module.
      gradients: compare the gradient of every parameter, too.
      settings: lines for the report.
      compiler_options: for `jax.jit`.
      say: told what is going on.

    Raises:
      UserError: the reference cannot be built or run, does not repeat itself, or is another
        network than the weights are.
    """
    from drsformer_jax.parity import torch_recording
    from drsformer_jax.parity.torch_reference import build_reference

    config = dataclasses.replace(weights.config, dtype="float32", precision="highest")
    source = np.ascontiguousarray(image[None].transpose(0, 3, 1, 2), dtype)
    options: dict[str, Any] = {"tolerance": tolerance, "compiler_options": compiler_options}
    say("running PyTorch, at least twice")
    module = build_reference(config, from_tree(weights.params, config), reference)
    theirs, unsteady = torch_recording.record_repeated(module, config, source)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), weights.params)
        say("compiling and running JAX")
        ours = jax_network.record(config, params, source, theirs, **options)
        modules = compare_modules(config, ours, theirs, tolerance)
        own_choice = None
        if any(r.selection and r.selection.entries for r in modules) and not beyond(modules):
            say("some top-k choices are open: running JAX with its own")
            alone = jax_network.record(config, params, source, **options)
            error = np.abs(alone.outputs[RESTORED] - theirs.outputs[RESTORED])
            own_choice = float(error.max())
            del alone
        report = ParityReport(
            settings or {}, tolerance, modules, own_choice=own_choice, unsteady=unsteady
        )
        if not gradients:
            return report
        # Gigabytes for a photograph, and of no more use.
        theirs.outputs.clear()
        ours.outputs.clear()
        say("running PyTorch backwards")
        torch_recording.record_gradients(theirs, module, config, source)
        say("compiling and running JAX backwards")
        jax_network.record_gradients(ours, config, params, source, theirs, **options)
    return dataclasses.replace(
        report, gradients=compare_gradients(ours, theirs, tolerance), flips=ours.flips
    )
