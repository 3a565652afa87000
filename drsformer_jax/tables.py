"""Tables as text: in aligned columns for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def aligned(
    rows: Iterable[Sequence[str]], left: Collection[int] = (0,), gap: str = "  "
) -> list[str]:
    """A line a row, its columns as wide as their longest cells, without spaces at the end.

    Args:
      rows: of cells, as many in each; at least one row.
      left: numbers of the columns whose cells begin at the left; those of the others end at the
        right.
      gap: between columns.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; the first row is its header."""
    header, *others = rows
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *others)]
