"""A data set's score as a table for the terminal, as JSON and as CSV.

JSON has no infinity: an infinite PSNR is the string "inf" there (Python's `float` and most others
read it), and "finite_mean_psnr" and "identical" stand beside the mean. CSV holds `inf` likewise.
Files are complete or absent, never half written.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from drsformer_jax.errors import one_line
from drsformer_jax.evaluation.dataset import DatasetScore, ImageScore
from drsformer_jax.files import write_rows, write_text
from drsformer_jax.scores.protocols import get_protocol


@dataclass(frozen=True)
class _Column:
    field: str
    title: str
    decimals: int


# As many decimals as the papers print.
_COLUMNS = (
    _Column("psnr", "PSNR dB", 2),
    _Column("ssim", "SSIM", 4),
    _Column("input_psnr", "rainy PSNR dB", 2),
    _Column("input_ssim", "rainy SSIM", 4),
    _Column("seconds", "seconds", 2),
)


def format_table(score: DatasetScore, *, per_image: bool = False) -> str:
    """The score as aligned text: protocol, one row an image if asked for, and the mean.

    Columns without any value (SSIM under 'basicsr', the rainy image's where only files were
    scored) are left out. No newline at the end.
    """
    protocol = get_protocol(score.protocol)
    columns = _used_columns(score)
    mean = score.mean
    rows = [["image", *(column.title for column in columns)]]
    if per_image:
        rows += [[one_line(image.name), *_formatted(image, columns)] for image in score.images]
    rows.append([f"mean of {len(score.images)}", *_formatted(mean, columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"protocol {protocol.name} ({protocol.luminance})"]
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    note = _identical_note(score)
    return "\n".join([*lines, note] if note else lines)


def to_json(score: DatasetScore) -> str:
    """The score as a JSON object, unrounded.

    Keys: protocol, used_for, count, mean, finite_mean_psnr, identical, images, intervals; a mean
    and an image have the fields of `ImageScore`, null where there is no value, "inf" where
    infinite; an interval of the mean is [low, high], or null.
    """
    protocol = get_protocol(score.protocol)
    document: dict[str, Any] = {
        "protocol": protocol.name,
        "used_for": protocol.used_for,
        "count": len(score.images),
        "mean": _json_fields(score.mean),
        "finite_mean_psnr": score.finite_mean_psnr,
        "identical": list(score.identical),
        "images": [_json_fields(image) for image in score.images],
        "intervals": {
            field: [interval.low, interval.high] if interval else None
            for field, interval in score.intervals.items()
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], score: DatasetScore) -> None:
    """Writes `to_json` to a file, in UTF-8. OSError if the folder cannot be written."""
    write_text(path, to_json(score))


def write_csv(path: str | os.PathLike[str], score: DatasetScore) -> None:
    """Writes one row an image, unrounded: name, protocol, then the columns that have values.

    OSError if the folder cannot be written.
    """
    columns = _used_columns(score)
    header = ["name", "protocol", *(column.field for column in columns)]
    rows = [
        [image.name, score.protocol, *(getattr(image, column.field) for column in columns)]
        for image in score.images
    ]
    write_rows(path, [header, *rows])


def _used_columns(score: DatasetScore) -> list[_Column]:
    return [
        column
        for column in _COLUMNS
        if any(getattr(image, column.field) is not None for image in score.images)
    ]


def _formatted(image: ImageScore, columns: list[_Column]) -> list[str]:
    values = ((getattr(image, column.field), column.decimals) for column in columns)
    return ["-" if value is None else f"{value:.{decimals}f}" for value, decimals in values]


def _identical_note(score: DatasetScore) -> str | None:
    """One line that says what an infinite mean is made of."""
    identical = score.identical
    if not identical:
        return None
    names = one_line(", ".join(identical))
    count = f"{len(identical)} of {len(score.images)}"
    note = f"no difference in luminance, so infinite PSNR: {count} ({names})"
    if score.finite_mean_psnr is not None:
        note += f"; mean PSNR of the rest: {score.finite_mean_psnr:.2f} dB"
    return note


def _json_fields(image: ImageScore) -> dict[str, Any]:
    return {
        field: "inf" if isinstance(value, float) and math.isinf(value) else value
        for field, value in asdict(image).items()
    }
