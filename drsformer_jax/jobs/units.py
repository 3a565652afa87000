"""What a job is made of, and in which order and company it is done."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Handed out together; about a minute of photographs.
MOST_TOGETHER = 64

# Height and width, or nothing where it does not matter or cannot be told.
Size = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Unit:
    """What is done as a whole, or again: a photograph, a share of a film, a pair to score, ...

    Attributes:
      name: unlike those of all others; where a file is written, that file's below OUT.
      sources: paths of what is read: when one of them changes, it is done again.
      outputs: paths of what is written: when one of them is gone, it is done again.
      share: number (from 1) and count of those who do it together; None: one does all of it.
    """

    name: str
    sources: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    share: tuple[int, int] | None = None


def batches(
    units: Iterable[Unit], sizes: Mapping[str, Size], most: int = MOST_TOGETHER
) -> Iterator[list[Unit]]:
    """Units by size, then name: a program is compiled once; up to `most` of one size together.

    What several share goes first, each by itself.
    """

    def size(unit: Unit) -> tuple[int, ...]:
        height, width = sizes.get(unit.name) or (0, 0)
        return -(-height // 8), -(-width // 8)

    units = list(units)
    yield from ([unit] for unit in units if unit.share)
    alone = (unit for unit in units if not unit.share)
    ordered = sorted(alone, key=lambda unit: (size(unit), unit.name))
    for _, alike in itertools.groupby(ordered, key=size):
        while batch := list(itertools.islice(alike, most)):
            yield batch
