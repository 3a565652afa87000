"""The comparison as a person reads it and as a machine does."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from drsformer_jax.parity.comparison import (
    GRADIENT_FACTOR,
    ModuleResult,
    beyond,
)
from drsformer_jax.parity.recording import SignFlips
from drsformer_jax.tables import aligned

_PACKAGES = ("drsformer_jax", "jax", "jaxlib", "flax", "numpy", "torch")


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """All that a comparison found.

    Attributes:
      settings: what was compared and how; JSON values, in the order in which they are printed.
      tolerance: of values; gradients get GRADIENT_FACTOR times it.
      modules, gradients: results in the network's order; gradients may be empty.
      own_choice: largest absolute difference of the restored image when our network keeps its own
        choice among attention logits that are equal up to rounding; None where the choices agree.
      unsteady: the first value that the reference's first run had otherwise than the two runs in
        a row that agree, which were compared; None if it had none.
      flips: values in front of ReLUs that have another sign than the reference's; None without
        gradients.
    """

    settings: dict[str, Any]
    tolerance: float
    modules: Sequence[ModuleResult]
    gradients: Sequence[ModuleResult] = ()
    own_choice: float | None = None
    flips: SignFlips | None = None
    unsteady: str | None = None

    @property
    def passed(self) -> bool:
        """Whether everything that could be compared is within tolerance."""
        return not beyond(self.modules) and not beyond(self.gradients)

    def to_json(self) -> dict[str, Any]:
        """For `files.write_json`."""
        return {
            "passed": self.passed,
            "verdict": self.verdict(),
            "settings": self.settings,
            "tolerance": self.tolerance,
            "versions": {name: _version(name) for name in _PACKAGES},
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "first_beyond": next((result.name for result in beyond(self.modules)), None),
            "own_choice_max_abs": self.own_choice,
            "unsteady": self.unsteady,
            "sign_flips": self.flips and dataclasses.asdict(self.flips),
            "modules": [dataclasses.asdict(result) for result in self.modules],
            "gradients": [dataclasses.asdict(result) for result in self.gradients],
        }

    def text(self) -> str:
        """The whole report: settings, tables, what is to be said of top-k choices, the verdict."""
        parts = [_settings_table(self.settings), _table("module", self.modules, choices=True)]
        if self.gradients:
            parts.append(_table("gradient of", self.gradients, choices=False))
        notes = (
            self._choice_note(),
            self._sign_note(),
            self._missing_note(),
            self._unsteady_note(),
        )
        parts += [note for note in notes if note]
        return "\n\n".join([*parts, self.verdict()])

    def verdict(self) -> str:
        """One or two lines: PASS or FAIL, and where it begins."""
        gradient_tolerance = GRADIENT_FACTOR * self.tolerance
        if self.passed:
            line = f"PASS: {len(self.modules)} modules within {self.tolerance:g}"
            if self.gradients:
                line += f", {len(self.gradients)} gradients within {gradient_tolerance:g}"
            return line
        lines = []
        wrong = beyond(self.modules)
        if wrong:
            lines.append(
                f"FAIL: {len(wrong)} of {len(self.modules)} modules beyond {self.tolerance:g}; "
                f"the first is {wrong[0].name} ({wrong[0].kind}): "
                f"{_reason(wrong[0], self.tolerance)}"
            )
        wrong = beyond(self.gradients)
        if wrong:
            # Errors travel backwards here: the last one is nearest to where they begin.
            lines.append(
                f"FAIL: {len(wrong)} of {len(self.gradients)} gradients beyond "
                f"{gradient_tolerance:g}; the first that a backward pass meets is "
                f"{wrong[-1].name}: {_reason(wrong[-1], gradient_tolerance)}"
            )
        return "\n".join(lines)

    def _choice_note(self) -> str | None:
        different = [r.selection for r in self.modules if r.selection and r.selection.entries]
        if not different or not all(s.within(self.tolerance) for s in different):
            return None
        entries = sum(selection.entries for selection in different)
        gap = max(selection.gap for selection in different)
        note = (
            f"{entries} entries of the top-k masks differ, all of them between attention logits "
            f"that are equal up to rounding (at most {gap:.1e} apart). Which of them is kept is "
            "open, so ours was run with the reference's choice"
        )
        if self.own_choice is None:
            return f"{note}."
        return f"{note}; with its own, the restored image differs by up to {self.own_choice:.1e}."

    def _sign_note(self) -> str | None:
        if self.flips is None:
            return None
        note = (
            f"{self.flips.count} of {self.flips.total:,} values in front of ReLUs have another "
            "sign than the reference's"
        )
        if self.flips.count:
            note += (
                f", the largest of them {self.flips.largest:.1e} of the largest value of its layer "
                f"({self.flips.layer}). Gradients were taken with the reference's signs where that "
                "is within tolerance"
            )
        return (
            f"{note}.\nGradients of an attention's learned scalars are sums that cancel; they are "
            "judged by the largest gradient of their attention."
        )

    def _unsteady_note(self) -> str | None:
        if self.unsteady is None:
            return None
        return (
            f"The reference's first run had other bits than its later ones, from {self.unsteady} "
            "on, and was left out: compared is what two runs in a row agree on."
        )

    def _missing_note(self) -> str | None:
        missing = [result.name for result in self.modules if result.problem and result.within]
        unseen = [r.name for r in self.modules if r.kind == "TKSA" and r.selection is None]
        notes = []
        if missing:
            notes.append(f"Not compared, because the reference does not show them: {len(missing)}.")
        if unseen:
            notes.append(
                f"The reference does not show four top-k choices in {len(unseen)} attention "
                "modules: their masks were not compared."
            )
        return " ".join(notes) or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _settings_table(settings: dict[str, Any]) -> str:
    return "\n".join(aligned([(name, str(settings[name])) for name in settings], left=(0, 1)))


def _table(title: str, results: Sequence[ModuleResult], *, choices: bool) -> str:
    # The widths that most tables have, so that those below one another are alike.
    header = [title, " " * 13, f"{'shape':>15}", f"{'max abs':>8}", f"{'rel. L2':>8}"]
    rows = [[*header, *["top-k"] * choices, ""]]
    for result in results:
        found = result.difference
        rows.append(
            [
                result.name,
                result.kind,
                "x".join(map(str, result.shape)),
                "-" if found is None else f"{found.max_abs:.1e}",
                "-" if found is None else f"{found.relative_l2:.1e}",
                *[_choices(result)] * choices,
                "" if result.within else "beyond",
            ]
        )
    return "\n".join(aligned(rows, left=(0, 1, len(rows[0]) - 1)))


def _choices(result: ModuleResult) -> str:
    if result.kind != "TKSA":
        return ""
    return "-" if result.selection is None else str(result.selection.entries)


def _reason(result: ModuleResult, tolerance: float) -> str:
    """Why a result is beyond tolerance, in words."""
    if result.difference is None:
        return result.problem or "it cannot be compared"
    found, selection = result.difference, result.selection
    reasons = []
    if not found.within(tolerance) or result.kind == "scalar":
        reasons.append(
            f"max abs {found.max_abs:.1e} of values up to {found.scale:.1e}, "
            f"relative L2 {found.relative_l2:.1e}"
        )
    if selection is not None and selection.sizes is not None:
        reasons.append(f"its branches keep {', '.join(map(str, selection.sizes))} entries of a row")
    elif selection is not None and not selection.within(tolerance):
        reasons.append(
            f"{selection.entries} entries of its top-k masks differ where the logits are up to "
            f"{selection.gap:.1e} apart"
        )
    return "; ".join(reasons)
