"""Several methods as JSON and as CSV.

As in `evaluation.report`: JSON has no infinity, which is the string "inf" there, and files are
complete or absent.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from drsformer_jax.evaluation.comparison import Comparison, MethodScore
from drsformer_jax.files import write_rows, write_text
from drsformer_jax.scores.protocols import get_protocol
from drsformer_jax.scores.statistics import (
    CONFIDENCE,
    MIN_IMAGES,
    RESAMPLES,
    SEED,
    Interval,
    PairedDifference,
)


def comparison_to_json(comparison: Comparison) -> str:
    """Everything, unrounded, as a JSON object.

    Keys: score, protocol, used_for, model, count, statistics, methods (name, path, mean,
    intervals, finite_mean, infinite, images) and comparisons (method, baseline, and for each
    metric count, left_out, mean_difference, interval, p_value). Intervals are [low, high]; null
    where there is none.
    """
    protocol = comparison.protocol and get_protocol(comparison.protocol)
    document = {
        "score": [metric.field for metric in comparison.metrics],
        "protocol": protocol.name if protocol else None,
        "used_for": protocol.used_for if protocol else None,
        "model": comparison.model,
        "count": len(comparison.images),
        "statistics": {
            "confidence": CONFIDENCE,
            "interval": "BCa bootstrap of the mean over images",
            "test": "two-sided paired sign-flip permutation test of the mean difference",
            "resamples": RESAMPLES,
            "seed": SEED,
            "min_images": MIN_IMAGES,
        },
        "methods": [_method_fields(comparison, method) for method in comparison.methods],
        "comparisons": [
            {
                "method": method.method.name,
                "baseline": comparison.methods[0].method.name,
                **{
                    metric.field: _difference_fields(comparison, differences[metric.field])
                    for metric in comparison.metrics
                },
            }
            for method, differences in zip(
                comparison.methods[1:], comparison.differences, strict=True
            )
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_comparison_json(path: str | os.PathLike[str], comparison: Comparison) -> None:
    """Writes `comparison_to_json` to a file, in UTF-8. OSError if it cannot be written."""
    write_text(path, comparison_to_json(comparison))


def write_comparison_csv(path: str | os.PathLike[str], comparison: Comparison) -> None:
    """Writes one row an image and method, unrounded: method, name, protocol, then the scores.

    There is no column 'protocol' for a score without a target. OSError if it cannot be written.
    """
    protocol = {"protocol": comparison.protocol} if comparison.protocol else {}
    fields = [metric.field for metric in comparison.metrics]
    rows = [
        [method.method.name, image, *protocol.values()]
        + [float(method.values[field][index]) for field in fields]
        for method in comparison.methods
        for index, image in enumerate(comparison.images)
    ]
    write_rows(path, [["method", "name", *protocol, *fields], *rows])


def _method_fields(comparison: Comparison, method: MethodScore) -> dict[str, Any]:
    metrics = comparison.metrics
    infinite = np.any([np.isinf(method.values[metric.field]) for metric in metrics], axis=0)
    return {
        "name": method.method.name,
        "path": str(method.method.path),
        "mean": {metric.field: _number(method.mean(metric)) for metric in metrics},
        "intervals": {
            metric.field: _interval_fields(method.intervals[metric.field]) for metric in metrics
        },
        "finite_mean": {metric.field: method.finite_mean(metric) for metric in metrics},
        "infinite": comparison.where(infinite),
        "images": [
            {
                "name": name,
                **{metric.field: _number(method.values[metric.field][index]) for metric in metrics},
            }
            for index, name in enumerate(comparison.images)
        ],
    }


def _difference_fields(comparison: Comparison, found: PairedDifference) -> dict[str, Any]:
    return {
        "count": found.count,
        "left_out": comparison.where(~found.used),
        "mean_difference": found.mean,
        "interval": _interval_fields(found.interval),
        "p_value": found.p_value,
    }


def _interval_fields(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _number(value: float) -> float | str:
    return "inf" if math.isinf(value) else float(value)
