"""Scores for other programs: rows of CSV files, and documents that `files.write_json` writes.

All numbers are unrounded. JSON has no infinity: an infinite score is the string "inf" there
(Python's `float` and most others read it), as it is in CSV.
"""

from __future__ import annotations

from typing import Any

from drsformer_jax.evaluation.comparison import Comparison
from drsformer_jax.scores.per_image import METRICS, Scores
from drsformer_jax.scores.protocols import get_protocol
from drsformer_jax.scores.statistics import (
    CONFIDENCE,
    MIN_IMAGES,
    RESAMPLES,
    SEED,
    PairedDifference,
)

# What a score with a target may have; null in JSON where it has not.
_WITH_TARGET = [field for field in METRICS if field != "niqe"]


def scores_document(scores: Scores) -> dict[str, Any]:
    """The scores of a data set, or of one method.

    Keys: protocol, used_for, count, mean, finite_mean_psnr, identical, images, intervals; a mean
    and an image have name, psnr, ssim, input_psnr, input_ssim and seconds, null where there is no
    value; an interval of the mean is [low, high], or null.
    """

    def fields(name: str, row: dict[str, float]) -> dict[str, Any]:
        return {"name": name} | {field: row.get(field) for field in _WITH_TARGET}

    return {
        **_protocol(scores),
        "count": len(scores),
        "mean": fields("mean", scores.means),
        "finite_mean_psnr": scores.finite_mean("psnr"),
        "identical": scores.infinite("psnr"),
        "images": list(map(fields, scores.names, scores.rows)),
        "intervals": scores.intervals,
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The scores of methods, and their differences from the first; of one, `scores_document`.

    Keys: score, protocol, used_for, model, count, statistics, methods (name, path, mean,
    intervals, finite_mean, infinite, images) and comparisons (method, baseline, and for each
    score count, left_out, mean_difference, interval, p_value). Intervals are [low, high]; null
    where there is none.
    """
    if comparison.single is not None:
        return scores_document(comparison.single)
    methods, first = comparison.methods, comparison.scores[0]
    return {
        "score": list(first.columns),
        **_protocol(first),
        "model": comparison.model,
        "count": len(first),
        "statistics": {
            "confidence": CONFIDENCE,
            "interval": "BCa bootstrap of the mean over images",
            "test": "two-sided paired sign-flip permutation test of the mean difference",
            "resamples": RESAMPLES,
            "seed": SEED,
            "min_images": MIN_IMAGES,
        },
        "methods": [
            {
                "name": method.name,
                "path": str(method.path),
                "mean": own.means,
                "intervals": own.intervals,
                "finite_mean": {field: own.finite_mean(field) for field in own.columns},
                "infinite": own.infinite(*own.columns),
                "images": [
                    {"name": name, **row} for name, row in zip(own.names, own.rows, strict=True)
                ],
            }
            for method, own in zip(methods, comparison.scores, strict=True)
        ],
        "comparisons": [
            {"method": method.name, "baseline": methods[0].name}
            | {field: _difference(first, one) for field, one in found.items()}
            for method, found in zip(methods[1:], comparison.differences, strict=True)
        ],
    }


def scores_rows(scores: Scores) -> list[list[Any]]:
    """A header and a row an image: name, protocol, if there is one, and the columns."""
    protocol = {"protocol": scores.protocol} if scores.protocol else {}
    rows = zip(scores.names, scores.rows, strict=True)
    return [
        ["name", *protocol, *scores.columns],
        *([name, *protocol.values(), *row.values()] for name, row in rows),
    ]


def comparison_rows(comparison: Comparison) -> list[list[Any]]:
    """A header and a row an image and method: the method, if there are several, and its score."""
    if comparison.single is not None:
        return scores_rows(comparison.single)
    tables = [scores_rows(scores) for scores in comparison.scores]
    named = zip(comparison.methods, tables, strict=True)
    return [
        ["method", *tables[0][0]],
        *([method.name, *row] for method, table in named for row in table[1:]),
    ]


def _protocol(scores: Scores) -> dict[str, str | None]:
    if scores.protocol is None:
        return {"protocol": None, "used_for": None}
    rules = get_protocol(scores.protocol)
    return {"protocol": rules.name, "used_for": rules.used_for}


def _difference(first: Scores, found: PairedDifference) -> dict[str, Any]:
    return {
        "count": found.count,
        "left_out": first.where(~found.used),
        "mean_difference": found.mean,
        "interval": found.interval,
        "p_value": found.p_value,
    }
