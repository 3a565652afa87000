"""Several methods as tables for the terminal.

Nothing is left out in silence: what has no interval, no test or no finite difference is named in a
line below the tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drsformer_jax.evaluation.comparison import Comparison, MethodScore, Metric
from drsformer_jax.evaluation.dataset import DatasetScore
from drsformer_jax.scores.statistics import (
    CONFIDENCE,
    MIN_IMAGES,
    RESAMPLES,
    Interval,
    PairedDifference,
)

INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
NAMES_SHOWN = 10


def format_comparison(comparison: Comparison) -> str:
    """Means with intervals, a row a method; below, the differences from the first method.

    No newline at the end.
    """
    count = len(comparison.images)
    lines = [f"{comparison.title}, {_images(count)}", *_means_table(comparison)]
    others = comparison.methods[1:]
    if others:
        lines += ["", f"difference from {comparison.methods[0].method.name}, image by image"]
        lines += _differences_table(comparison)
    return "\n".join([*lines, "", *_notes(comparison)])


def interval_line(score: DatasetScore) -> str:
    """One line on how sure the mean of a single method is."""
    count = len(score.images)
    if count < MIN_IMAGES:
        return f"no {INTERVAL} of the mean: {_too_few(count)}"
    parts = []
    intervals = score.intervals
    for field, title, decimals, unit in (("psnr", "PSNR", 2, " dB"), ("ssim", "SSIM", 4, "")):
        if field not in intervals:
            continue
        interval = intervals[field]
        if interval is None:
            parts.append(f"none for {title}, which is infinite")
        else:
            parts.append(f"{title} {_interval(interval, decimals)}{unit}")
    return (
        f"{INTERVAL} of the mean: {', '.join(parts)} (bootstrap over images, {RESAMPLES} resamples)"
    )


def _means_table(comparison: Comparison) -> list[str]:
    rows = [["method"]]
    for metric in comparison.metrics:
        rows[0] += [metric.title, INTERVAL]
    for method in comparison.methods:
        row = [method.method.name]
        for metric in comparison.metrics:
            interval = method.intervals[metric.field]
            row += [
                f"{method.mean(metric):.{metric.decimals}f}",
                "-" if interval is None else _interval(interval, metric.decimals),
            ]
        rows.append(row)
    return _aligned(rows)


def _differences_table(comparison: Comparison) -> list[str]:
    rows = [["method"]]
    for metric in comparison.metrics:
        rows[0] += [metric.title, INTERVAL, "p"]
    for method, differences in zip(comparison.methods[1:], comparison.differences, strict=True):
        row = [method.method.name]
        for metric in comparison.metrics:
            found, sign = differences[metric.field], f"+.{metric.decimals}f"
            interval = found.interval
            row += [
                "-" if found.mean is None else format(found.mean, sign),
                "-"
                if interval is None
                else f"{format(interval.low, sign)} to {format(interval.high, sign)}",
                _p_value(found.p_value),
            ]
        rows.append(row)
    return _aligned(rows)


def _notes(comparison: Comparison) -> list[str]:
    """What the reader has to know of the numbers above."""
    count = len(comparison.images)
    notes = []
    for method in comparison.methods:
        notes += [_infinite_note(comparison, method, metric) for metric in comparison.metrics]
    for method, differences in zip(comparison.methods[1:], comparison.differences, strict=True):
        for metric in comparison.metrics:
            notes.append(_difference_note(comparison, method, metric, differences[metric.field]))
    if count < MIN_IMAGES:
        notes.append(
            f"no intervals{' and no test' * (len(comparison.methods) > 1)}: {_too_few(count)}"
        )
    else:
        notes.append(f"intervals: of the mean, by bootstrap over images ({RESAMPLES} resamples)")
        if len(comparison.methods) > 1:
            notes.append("p: two-sided sign-flip permutation test of the mean difference")
        if len(comparison.methods) > 2:
            tests = len(comparison.methods) - 1
            notes.append(
                f"each p stands alone: with {tests} comparisons, take 0.05 / {tests} = "
                f"{0.05 / tests:.3g} for the 5 % level"
            )
    if comparison.model is not None:
        notes.append(f"pristine model: {comparison.model}")
    return [note for note in notes if note]


def _infinite_note(comparison: Comparison, method: MethodScore, metric: Metric) -> str:
    infinite = comparison.where(np.isinf(method.values[metric.field]))
    if not infinite:
        return ""
    note = (
        f"{method.method.name}: no difference in luminance from the target, so infinite PSNR: "
        f"{len(infinite)} of {len(comparison.images)} ({_listed(infinite)})"
    )
    mean = method.finite_mean(metric)
    return note if mean is None else f"{note}; mean PSNR of the rest: {mean:.2f} dB"


def _difference_note(
    comparison: Comparison, method: MethodScore, metric: Metric, found: PairedDifference
) -> str:
    first, own = comparison.methods[0].method.name, method.method.name
    left_out = comparison.where(~found.used)
    if left_out:
        rest = f"{_images(found.count)} left"
        if not found.count:
            rest = "none left"
        elif found.count < MIN_IMAGES:
            rest = f"no interval and no p: {rest}, at least {MIN_IMAGES} are needed"
        return (
            f"{own}: {_images(len(left_out))} not in the difference of PSNR, which is infinite for "
            f"one of the two methods ({_listed(left_out)}); {rest}"
        )
    if np.array_equal(method.values[metric.field], comparison.methods[0].values[metric.field]):
        title = metric.title.split(maxsplit=1)[0]
        return f"{own}: the same {title} as {first} on every image"
    return ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _interval(interval: Interval, decimals: int) -> str:
    return f"{interval.low:.{decimals}f} to {interval.high:.{decimals}f}"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _too_few(count: int) -> str:
    return f"{_images(count)}, at least {MIN_IMAGES} are needed"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
