"""What `verification.verify` found, as a table for the terminal and as a JSON document."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from drsformer_jax.datasets.verification import KINDS, Fault, SplitReport, Verification
from drsformer_jax.errors import one_line
from drsformer_jax.tables import aligned

# Of each kind; the JSON file has all.
MOST_SHOWN = 10
_SIZES_SHOWN = 3


def document(found: Verification) -> dict[str, Any]:
    """All that was found: root, data_set, protocol, splits by name, faults."""
    return dataclasses.asdict(found) | {"root": str(found.root)}


def text(found: Verification) -> str:
    """A table of the splits, then what is wrong."""
    rows: list[Sequence[str]] = [
        ("split", "pairs", "expected", "clean images", "names", "rainy PSNR dB", "known")
    ]
    rows += [_row(name, split) for name, split in found.splits.items()]
    lines = [*aligned(rows, left=(0, 4)), f"protocol of PSNR: {found.protocol}"]
    for name, split in found.splits.items():
        lines.append(one_line(f"{name}: {_listed(split.sizes)}; {_listed(split.suffixes)}"))
    if len(found.splits) == 1:
        lines.append("one split alone: leaks between training and test were not looked for")
    if not all(split.compared for split in found.splits.values()):
        lines.append("a split is too large to compare its images by the look; equal pixels only")
    if not found.faults:
        return "\n".join([*lines, "nothing is wrong"])
    for kind, title in KINDS.items():
        of_kind = [fault for fault in found.faults if fault.kind == kind]
        lines += _section(title, of_kind) if of_kind else []
    return "\n".join([*lines, f"{_counted(len(found.faults), 'fault')} in {found.root}"])


def _row(name: str, split: SplitReport) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        name,
        f"{split.pairs:,}",
        number(split.expected, ","),
        f"{split.targets:,}",
        split.scheme,
        number(split.input_psnr, ".2f"),
        number(split.known_input_psnr, ".2f"),
    )


def _listed(counts: dict[str, int]) -> str:
    """`481x321 (134), 321x481 (66)`: the most frequent ones."""
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:_SIZES_SHOWN]]
    if len(counts) > len(shown):
        shown.append(f"{len(counts) - len(shown)} more")
    return ", ".join(shown) or "nothing"


def _section(title: str, faults: Sequence[Fault]) -> list[str]:
    lines = [f"{title}: {_counted(len(faults), 'fault')}"]
    lines += [f"  {one_line(fault.message)}" for fault in faults[:MOST_SHOWN]]
    if len(faults) > MOST_SHOWN:
        lines.append(f"  and {len(faults) - MOST_SHOWN} more (--json FILE has all)")
    return lines


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
