"""Pallas kernels for TPU, tried against the other forms of the same modules.

Nobody trusts a kernel that no chip has run: values and all gradients of both are compared on the
TPU at hand, at the sizes that are to be computed, before anything depends on them.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import (
    NormalisedAttention,
    NormalisedFeedForward,
    SparseTransformerBlock,
)
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.execution import DTYPES, TPU, Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import forms

# Both are compared with the other form in float32 and full precision, by relative distance (L2).
# The kernel may be so many times as far away as the other form is, which rounds as much as it does:
# behind ReLUs bfloat16 moves values by 0.003 and gradients by up to 0.08.
FACTOR = 2.0
# And what float32 rounds, where the other form is the reference itself.
EXACT = 1e-4

# Gradients of so few numbers, temperatures and weights of branches, are compared in float32 and
# full precision only: such sums over everything may cancel to what rounding leaves.
FEW = 8

RUNS_TIMED = 5

# What a training step of the paper's network has on a chip; and the least that is tried.
BATCH, SIZE = 4, 128
SMALL_BATCH, SMALL_SIZE = 2, 8


@dataclasses.dataclass(frozen=True)
class Case:
    """A module that has a kernel, and an image that it gets.

    Attributes:
      kernel: the name that `Execution.kernels` knows.
      module: has that class, or such a module inside.
      shape: B C H W.
    """

    kernel: str
    module: nn.Module
    shape: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of a case.

    Attributes:
      differences: of the kernel from the other form in float32, relative, of the value ("value"),
        the image's gradient ("image") and those of the parameters; empty where it was not computed.
      of_form: the same of the other form as it is; empty where it is the reference itself.
      reason: why it was not computed: what the kernel cannot do, or the error that it ended with.
      failed: whether that was an error.
      milliseconds: of value and gradients, by the kernel and by the other form; None: not timed.
    """

    case: Case
    differences: dict[str, float]
    of_form: dict[str, float] = dataclasses.field(default_factory=dict)
    reason: str | None = None
    failed: bool = False
    milliseconds: tuple[float, float] | None = None

    @property
    def largest(self) -> float:
        """The largest difference; NaN where one is."""
        return float(np.max(list(self.differences.values()))) if self.differences else 0.0

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against the kernel. What it cannot do, it is not asked to do."""
        return not self.failed and all(
            difference <= EXACT + FACTOR * self.of_form.get(name, 0.0)
            for name, difference in self.differences.items()
        )


def cases(config: DRSformerConfig, batch: int, height: int, width: int) -> Iterator[Case]:
    """Every kernel at every size at which the network runs it.

    Args:
      batch, height, width: of the images, in full resolution.
    """
    channels, full = config.channels, (height, width)
    for count in (channels[0], channels[1]) if config.use_mefc else ():
        yield Case("FeatureCompensator", FeatureCompensator(), (batch, count, *full))
    # Level 1 is left with twice the channels that it begins with.
    for count, level in ((channels[0], 0), *((channels[max(n, 1)], n) for n in range(4))):
        shape = (batch, count, height >> level, width >> level)
        heads = config.heads[level]
        # Where rounding decides what the branches keep, correct forms would differ as well.
        for module in (SparseTransformerBlock, NormalisedAttention):
            yield Case(module.__name__, module(config, heads, keeps_all=True), shape)
        # Where the block's kernels cannot compute it, those of its halves are taken.
        yield Case("NormalisedFeedForward", NormalisedFeedForward(config), shape)


def tried(case: Case, how: Execution, *, timed: bool = False) -> Trial:
    """Runs a case on the device at hand, by the kernel and by the other form.

    Whatever goes wrong with the kernel is told in the result.
    """
    trial = Trial(case, {})
    form = dataclasses.replace(how, kernels="off")
    exact = dataclasses.replace(form, dtype="float32", precision="highest")
    least = 0 if form == exact else FEW
    by_kernel, by_form, reference = (
        jax.jit(functools.partial(_value_and_gradients, case.module, execution, least))
        for execution in (dataclasses.replace(how, kernels=(case.kernel,)), form, exact)
    )
    arguments = _arguments(case, how)
    try:
        if reason := _why_not(case, how, arguments[0]):
            return dataclasses.replace(trial, reason=reason)
        found = jax.block_until_ready(by_kernel(*arguments))
    except Exception as error:  # of a compiler or a device: anything may be wrong
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return dataclasses.replace(trial, reason=reason, failed=True)
    params, *images = arguments
    expected = reference(params, *(x.astype(jnp.float32) for x in images))
    trial = dataclasses.replace(trial, differences=_distances(found, expected))
    if form != exact:
        of_form = _distances(by_form(*arguments), expected)
        trial = dataclasses.replace(trial, of_form=of_form)
    if not timed:
        return trial
    seconds = _seconds(by_kernel, arguments), _seconds(by_form, arguments)
    return dataclasses.replace(trial, milliseconds=(seconds[0] * 1e3, seconds[1] * 1e3))


def all_tried() -> list[Trial]:
    """Every kernel of the paper's network, timed: in full precision, and in both dtypes as trained.

    Without a TPU, kernels are interpreted, which takes minutes for all but the smallest network: in
    float32, one case of each but of MEFC's, whose interpreted program XLA's CPU compiler does not
    survive when it optimises.
    """
    if jax.default_backend() == TPU:
        network = PRESETS["drsformer"]
        return [
            tried(case, how, timed=True)
            for how in (Execution(precision="highest"), *map(Execution, DTYPES))
            for case in cases(network, BATCH, SIZE, SIZE)
        ]
    from drsformer_jax.ops.tpu.lanes import interpreting

    network = dataclasses.replace(PRESETS["tiny"], dim=2, heads=(1, 1, 1, 1))
    small = list(cases(network, SMALL_BATCH, SMALL_SIZE, SMALL_SIZE))
    first_of_each = {case.kernel: case for case in reversed(small)}
    with interpreting():
        how = Execution(platform=TPU, precision="highest")
        return [tried(case, how) for case in first_of_each.values()]


def settled(
    config: DRSformerConfig, batch: int, height: int, width: int
) -> tuple[DRSformerConfig, list[Trial]]:
    """A configuration whose kernels are no longer left open, and what that rests on.

    Nothing is tried where there is nothing to choose: on other devices, or for those that are not
    there.
    """
    if config.kernels != "auto" or config.target != TPU or config.platform is not None:
        return config, []
    trials = [tried(case, config.execution) for case in cases(config, batch, height, width)]
    refused = {trial.case.kernel for trial in trials if not trial.agrees}
    taken = tuple(sorted({trial.case.kernel for trial in trials} - refused))
    return dataclasses.replace(config, kernels=taken), trials


def told(trials: list[Trial]) -> str:
    """What was found, in a line."""
    names = sorted({trial.case.kernel for trial in trials})
    parts = []
    for name in names:
        own = [trial for trial in trials if trial.case.kernel == name]
        wrong = next((trial for trial in own if not trial.agrees), None)
        if wrong is None:
            largest = max(trial.largest for trial in own)
            parts.append(f"{name} agrees (largest difference {largest:.1e}) and is taken")
        else:
            why = wrong.reason or f"differs by {wrong.largest:.1e}"
            parts.append(f"{name} {why}: not taken")
    return f"kernels: {'; '.join(parts)}"


def _arguments(case: Case, how: Execution) -> tuple[Any, jax.Array, jax.Array]:
    """Parameters, image and cotangent."""
    rng = np.random.default_rng(0)
    small = jax.ShapeDtypeStruct((1, case.shape[1], 8, 8), jnp.float32)
    shapes = jax.eval_shape(
        lambda x: case.module.init(jax.random.key(0), Image(x))["params"], small
    )

    def normal(leaf: Any) -> jax.Array:
        scale = np.prod(leaf.shape[:-1], dtype=float) ** -0.5
        return jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)

    x, cotangent = (jnp.asarray(rng.normal(size=case.shape), how.dtype) for _ in range(2))
    return jax.tree.map(normal, shapes), x, cotangent


def _why_not(case: Case, how: Execution, params: Any) -> str | None:
    x = jax.ShapeDtypeStruct(case.shape, jnp.dtype(how.dtype))
    how = dataclasses.replace(how, kernels=(case.kernel,))
    with forms.refusals() as reasons:
        jax.eval_shape(lambda x: case.module.apply({"params": params}, Image(x, how)), x)
    return next(iter(reasons), None)


def _value_and_gradients(
    module: nn.Module,
    how: Execution,
    least: int,
    params: Any,
    x: jax.Array,
    cotangent: jax.Array,
) -> dict[str, jax.Array]:
    """The value, and the gradients of more than `least` numbers each."""

    def value(params: Any, x: jax.Array) -> jax.Array:
        y: jax.Array = jax.tree.leaves(module.apply({"params": params}, Image(x, how)))[0]
        return y

    y, pull_back = jax.vjp(value, params, x)
    of_params, of_image = pull_back(cotangent)
    named = jax.tree_util.tree_leaves_with_path(of_params)
    return {
        "value": y,
        "image": of_image,
        **{
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in named
            if leaf.size > least
        },
    }


def _distances(found: dict[str, jax.Array], expected: dict[str, jax.Array]) -> dict[str, float]:
    """Relative to what is expected, in L2."""

    def distance(one: jax.Array, other: jax.Array) -> float:
        first, second = (np.asarray(x, np.float64) for x in (one, other))
        return float(np.linalg.norm(first - second)) / max(float(np.linalg.norm(second)), 1e-30)

    return {name: distance(found[name], expected[name]) for name in expected}


def _seconds(function: Any, arguments: tuple[Any, ...]) -> float:
    """The shortest of some runs."""

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - started

    return min(run() for _ in range(RUNS_TIMED))
