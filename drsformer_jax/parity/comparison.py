"""Two recordings of the same network and image, compared module by module."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from drsformer_jax.models.attention import branch_sizes
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.recording import Place, Recording, probes_of

# Of values; a gradient passes every operation twice and is summed over all pixels: ten times that.
TOLERANCES = {"float32": 1e-5, "float64": 1e-11}
GRADIENT_FACTOR = 10

# These gradients are sums over all pixels and channels that cancel: what rounding leaves of them
# goes by what is summed, of which the other gradients of the attention give an idea.
_LEARNED_SCALARS = (".temperature", ".attn1", ".attn2", ".attn3", ".attn4")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Attributes:
      max_abs: largest absolute difference.
      relative_l2: ||ours - reference|| / ||reference||.
      scale: largest absolute value of the reference, which `max_abs` is judged by.
    """

    max_abs: float
    relative_l2: float
    scale: float

    def within(self, tolerance: float) -> bool:
        """Whether both errors, relative to the reference, are; never so if one is not a number."""
        return self.max_abs <= tolerance * self.scale and self.relative_l2 <= tolerance


def difference(ours: np.ndarray, reference: np.ndarray) -> Difference:
    """The difference of two arrays of one shape, computed in float64."""
    reference = reference.astype(np.float64)
    scale = float(np.abs(reference).max())
    if not (math.isfinite(scale) and np.isfinite(ours).all()):
        return Difference(math.inf, math.inf, scale)
    error = ours.astype(np.float64) - reference
    norm = float(np.linalg.norm(reference))
    distance = float(np.linalg.norm(error))
    relative = 0.0 if distance == 0 else distance / norm if norm else math.inf
    return Difference(float(np.abs(error).max()), relative, scale)


@dataclasses.dataclass(frozen=True)
class SelectionDifference:
    """How the top-k masks of one attention module differ.

    Attributes:
      entries: that only one of the programs keeps, over all branches, heads and rows.
      total: entries of all masks.
      gap: largest difference between two logits of which one program kept one and the other the
        other; 0 where the masks are equal.
      scale: largest absolute logit.
      sizes: entries a row of each branch keeps in the reference, where they are not ours.
    """

    entries: int
    total: int
    gap: float
    scale: float
    sizes: tuple[int, ...] | None = None

    def within(self, tolerance: float) -> bool:
        """Whether all that differs is a choice between logits that are equal up to rounding."""
        return self.sizes is None and self.gap <= tolerance * self.scale


def selection_difference(
    ours: np.ndarray, reference: np.ndarray, logits: np.ndarray
) -> SelectionDifference:
    """Compares masks.

    Args:
      ours, reference: bool, branches B heads c c.
      logits: what was chosen from, B heads c c.
    """
    logits = logits.astype(np.float64)
    kept = tuple(int(mask.sum(axis=-1).max()) for mask in reference)
    sizes = None if kept == branch_sizes(logits.shape[-1]) else kept
    only_ours, only_reference = ours & ~reference, reference & ~ours
    # In each row: the best entry that only we kept against the worst that only the other kept.
    best = np.where(only_ours, logits, -np.inf).max(axis=-1)
    worst = np.where(only_reference, logits, np.inf).min(axis=-1)
    both = np.isfinite(best) & np.isfinite(worst)
    gap = float(np.where(both, best - worst, 0).max(initial=0)) if both.any() else 0.0
    return SelectionDifference(
        entries=int((ours != reference).sum()),
        total=ours.size,
        gap=gap,
        scale=float(np.abs(logits).max()),
        sizes=sizes,
    )


@dataclasses.dataclass(frozen=True)
class ModuleResult:
    """One row of the comparison.

    Attributes:
      name, kind: of the module, or of the parameter whose gradient is compared.
      shape: of the values.
      difference: of the values; None where the reference shows none.
      selection: of the masks; None where it is no attention or the reference shows none.
      problem: why nothing could be compared.
      within: both within tolerance.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    difference: Difference | None
    within: bool
    selection: SelectionDifference | None = None
    problem: str | None = None


def compare_modules(
    config: DRSformerConfig, ours: Recording, reference: Recording, tolerance: float
) -> list[ModuleResult]:
    """One result for each probe, in the network's order."""
    return [_compare(probe, ours, reference, tolerance) for probe in probes_of(config)]


def _compare(probe: Place, ours: Recording, reference: Recording, tolerance: float) -> ModuleResult:
    value, other = ours.outputs[probe.name], reference.outputs.get(probe.name)
    name, kind, shape = probe.name, probe.kind, value.shape
    if other is None:
        problem = "the reference does not call this module, or it returns no tensor"
        return ModuleResult(name, kind, shape, None, True, problem=problem)
    if other.shape != value.shape:
        problem = f"the reference's value has the shape {other.shape}"
        return ModuleResult(name, kind, shape, None, False, problem=problem)
    found = difference(value, other)
    selection = None
    if shows_choice(reference, ours, name):
        selection = selection_difference(
            ours.chosen[name], reference.chosen[name], ours.logits[name]
        )
    within = found.within(tolerance) and (selection is None or selection.within(tolerance))
    return ModuleResult(name, kind, shape, found, within, selection)


def shows_choice(reference: Recording, ours: Recording, name: str) -> bool:
    """Whether the reference's masks of an attention module are there and have our form."""
    masks, own = reference.chosen.get(name), ours.chosen.get(name)
    return masks is not None and own is not None and masks.shape == own.shape


def compare_gradients(
    ours: Recording, reference: Recording, tolerance: float
) -> list[ModuleResult]:
    """One result for each parameter, in the network's order; both recordings have gradients.

    Args:
      tolerance: of values; gradients get `GRADIENT_FACTOR` times it. The learned scalars of an
        attention are judged by its largest gradient, everything else by itself.
    """
    assert ours.gradients is not None
    assert reference.gradients is not None
    scales: dict[str, float] = {}
    for name, gradient in reference.gradients.items():
        module = _attention_of(name)
        if module:
            scales[module] = max(scales.get(module, 0.0), float(np.abs(gradient).max()))
    results = []
    for name, gradient in ours.gradients.items():
        found = difference(gradient, reference.gradients[name])
        if name.endswith(_LEARNED_SCALARS):
            kind = "scalar"
            within = found.max_abs <= GRADIENT_FACTOR * tolerance * scales[_attention_of(name)]
        else:
            kind = "tensor"
            within = found.within(GRADIENT_FACTOR * tolerance)
        results.append(ModuleResult(name, kind, gradient.shape, found, within))
    return results


def _attention_of(parameter: str) -> str:
    """The attention module that a parameter belongs to, or nothing."""
    module, separator, _ = parameter.rpartition(".attn.")
    return module if separator else ""


def beyond(results: Sequence[ModuleResult]) -> list[ModuleResult]:
    """Those that are not within tolerance."""
    return [result for result in results if not result.within]
