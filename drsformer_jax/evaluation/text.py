"""Scores for the terminal.

Nothing is left out in silence: what has no interval, no test or no finite difference is named in a
line below the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from drsformer_jax.errors import one_line
from drsformer_jax.evaluation.comparison import Comparison
from drsformer_jax.scores.per_image import METRICS, Scores
from drsformer_jax.scores.protocols import get_protocol
from drsformer_jax.scores.statistics import (
    CONFIDENCE,
    MIN_IMAGES,
    RESAMPLES,
    Interval,
    PairedDifference,
)
from drsformer_jax.tables import aligned

INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
NAMES_SHOWN = 10


def scores_text(scores: Scores, *, per_image: bool = False) -> str:
    """The protocol, one row an image if asked for, the mean, and what an infinite one is made of.

    No newline at the end.
    """
    rows = [["image", *(METRICS[field].title for field in scores.columns)]]
    if per_image:
        rows += [
            [one_line(name), *_formatted(row)]
            for name, row in zip(scores.names, scores.rows, strict=True)
        ]
    rows.append([f"mean of {len(scores)}", *_formatted(scores.means)])
    identical = scores.infinite("psnr")
    named = one_line(", ".join(identical))
    notes = _infinite_notes(scores, "psnr", "no difference in luminance", named)
    return "\n".join([_title(scores), *aligned(rows), *notes])


def interval_text(scores: Scores) -> str:
    """One line on how sure the means of a single method are."""
    if len(scores) < MIN_IMAGES:
        return f"no {INTERVAL} of the mean: {_too_few(len(scores))}"
    parts = []
    for field, interval in scores.intervals.items():
        title, *unit = METRICS[field].title.split()
        parts.append(
            f"none for {title}, which is infinite"
            if interval is None
            else " ".join([title, _interval(field, interval), *unit])
        )
    return (
        f"{INTERVAL} of the mean: {', '.join(parts)} (bootstrap over images, {RESAMPLES} resamples)"
    )


def comparison_text(comparison: Comparison) -> str:
    """Means with intervals, a row a method; below, the differences from the first method.

    Of one method by a protocol: `scores_text` and `interval_text`. No newline at the end.
    """
    if comparison.single is not None:
        return f"{scores_text(comparison.single)}\n{interval_text(comparison.single)}"
    methods, first = comparison.methods, comparison.scores[0]
    lines = [f"{_title(first)}, {_images(len(first))}", *_means(comparison)]
    if len(methods) > 1:
        lines += ["", f"difference from {methods[0].name}, image by image"]
        lines += _differences(comparison)
    return "\n".join([*lines, "", *_notes(comparison)])


def _title(scores: Scores) -> str:
    if scores.protocol is None:
        return "NIQE, no target needed, lower is better"
    return f"protocol {scores.protocol} ({get_protocol(scores.protocol).luminance})"


def _means(comparison: Comparison) -> list[str]:
    rows = [["method"]]
    for field in comparison.scores[0].columns:
        rows[0] += [METRICS[field].title, INTERVAL]
    for method, scores in zip(comparison.methods, comparison.scores, strict=True):
        rows.append([method.name])
        for field, mean in scores.means.items():
            rows[-1] += [_number(field, mean), _interval(field, scores.intervals[field])]
    return aligned(rows)


def _differences(comparison: Comparison) -> list[str]:
    rows = [["method"]]
    for field in comparison.scores[0].columns:
        rows[0] += [METRICS[field].title, INTERVAL, "p"]
    for method, differences in zip(comparison.methods[1:], comparison.differences, strict=True):
        rows.append([method.name])
        for field, found in differences.items():
            rows[-1] += [
                "-" if found.mean is None else _number(field, found.mean, "+"),
                _interval(field, found.interval, "+"),
                _p_value(found.p_value),
            ]
    return aligned(rows)


def _notes(comparison: Comparison) -> Iterator[str]:
    """What the reader has to know of the numbers above."""
    methods, count = comparison.methods, len(comparison.scores[0])
    for method, scores in zip(methods, comparison.scores, strict=True):
        why = f"{method.name}: no difference in luminance from the target"
        for field in scores.columns:
            yield from _infinite_notes(scores, field, why, _listed(scores.infinite(field)))
    for index, differences in enumerate(comparison.differences, start=1):
        for field, found in differences.items():
            yield from _difference_notes(comparison, index, field, found)
    if count < MIN_IMAGES:
        yield f"no intervals{' and no test' * (len(methods) > 1)}: {_too_few(count)}"
    else:
        yield f"intervals: of the mean, by bootstrap over images ({RESAMPLES} resamples)"
        if len(methods) > 1:
            yield "p: two-sided sign-flip permutation test of the mean difference"
        if (tests := len(methods) - 1) > 1:
            yield (
                f"each p stands alone: with {tests} comparisons, take 0.05 / {tests} = "
                f"{0.05 / tests:.3g} for the 5 % level"
            )
    if comparison.model is not None:
        yield f"pristine model: {comparison.model}"


def _infinite_notes(scores: Scores, field: str, why: str, named: str) -> Iterator[str]:
    """Of how many images, and which, the score is infinite, if of any."""
    if infinite := scores.infinite(field):
        rest = scores.finite_mean(field)
        yield (
            f"{why}, so infinite PSNR: {len(infinite)} of {len(scores)} ({named})"
            + ("" if rest is None else f"; mean PSNR of the rest: {rest:.2f} dB")
        )


def _difference_notes(
    comparison: Comparison, index: int, field: str, found: PairedDifference
) -> Iterator[str]:
    """What a method's difference from the first one leaves out, or that there is none."""
    first, own = comparison.scores[0], comparison.scores[index]
    name = comparison.methods[index].name
    if left_out := first.where(~found.used):
        rest = f"{_images(found.count)} left" if found.count else "none left"
        if 0 < found.count < MIN_IMAGES:
            rest = f"no interval and no p: {rest}, at least {MIN_IMAGES} are needed"
        yield (
            f"{name}: {_images(len(left_out))} not in the difference of PSNR, which is infinite "
            f"for one of the two methods ({_listed(left_out)}); {rest}"
        )
    elif np.array_equal(own.columns[field], first.columns[field]):
        title = METRICS[field].title.split(maxsplit=1)[0]
        yield f"{name}: the same {title} as {comparison.methods[0].name} on every image"


def _number(field: str, value: float, sign: str = "-") -> str:
    return format(value, f"{sign}.{METRICS[field].decimals}f")


def _formatted(row: Mapping[str, float]) -> list[str]:
    return [_number(field, value) for field, value in row.items()]


def _interval(field: str, interval: Interval | None, sign: str = "-") -> str:
    if interval is None:
        return "-"
    return " to ".join(_number(field, end, sign) for end in interval)


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
