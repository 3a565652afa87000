"""Curves of a training run as SVG, to stand in an HTML page: lines take its colours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 10, 26

# A line is no finer than this; of more points, means.
_POINTS = 600
_TICKS = 7


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: its name, and its finite values at rising steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def chart(title: str, lines: Sequence[Line], marks: Sequence[int] = (), log: bool = False) -> str:
    """An <svg> with lines of the classes line0, line1, ... over the steps.

    Args:
      title: of the chart, plain text that needs no escapes.
      lines: at least one, with at least one point each.
      marks: steps where a thin line stands.
      log: a logarithmic scale, where all values are positive.
    """
    values = np.concatenate([np.asarray(line.values, float) for line in lines])
    log = log and bool((values > 0).all())
    bottom, top = _range(np.log10(values) if log else values)
    end = max(1.0, *(line.steps[-1] for line in lines))

    def x(step: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * step / end

    def y(value: float) -> float:
        height = math.log10(value) if log else value
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (height - bottom) / (top - bottom)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">']
    for tick in _decades(bottom, top) if log else _ticks(bottom, top):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" class="y">{tick:.4g}</text>')
    for tick in _ticks(0, end):
        label = f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}"
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 7}" class="x">{label}</text>')
    for mark in marks:
        parts.append(f'<path class="mark" d="M{x(mark):.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
    for number, line in enumerate(lines):
        points = [f"{x(step):.1f},{y(value):.1f}" for step, value in _thinned(line)]
        # Of one point a line is not drawn; its round ends are.
        points *= 2 if len(points) == 1 else 1
        parts.append(f'<polyline class="line{number}" points="{" ".join(points)}"/>')
    return "".join([*parts, "</svg>"])


def _range(values: np.ndarray) -> tuple[float, float]:
    """What an axis shows: all the values, and some place around them."""
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """At most `_TICKS` round numbers between two."""
    magnitude = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(m * magnitude for m in (1, 2, 5, 10) if (high - low) / (m * magnitude) < _TICKS)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Round numbers between 10**low and 10**high, for a logarithmic scale."""
    if high - low < 1:
        return _ticks(10**low, 10**high)
    powers = range(math.ceil(low), math.floor(high) + 1)
    if len(powers) > 2:
        return [10.0**power for power in powers[:: len(powers) // (_TICKS + 1) + 1]]
    ticks = [m * 10.0**power for power in (powers[0] - 1, *powers) for m in (1, 2, 5)]
    return [tick for tick in ticks if 10**low <= tick <= 10**high]


def _thinned(line: Line) -> list[tuple[float, float]]:
    """The points of a line, or means of as many neighbours as it takes."""
    parts = min(_POINTS, len(line.steps))
    steps, values = (
        [float(np.mean(part)) for part in np.array_split(np.asarray(column, float), parts)]
        for column in (line.steps, line.values)
    )
    return list(zip(steps, values, strict=True))
