"""The scores of some images, a column a metric, and what they say together.

Identical images have an infinite PSNR, and so has, then, the mean: no image is left out of it. So
that the rest is not lost, `Scores.finite_mean` is the mean over the other images, and
`Scores.infinite` names these; every report that shows the one shows the other two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drsformer_jax.scores.protocols import get_protocol
from drsformer_jax.scores.statistics import (
    Interval,
    PairedDifference,
    mean_interval,
    paired_difference,
)


@dataclass(frozen=True)
class Metric:
    """What a column holds: `field` is its name in files, `title` and `decimals` are for tables."""

    field: str
    title: str
    decimals: int


# In the order of tables; as many decimals as the papers print.
METRICS: Mapping[str, Metric] = {
    metric.field: metric
    for metric in (
        Metric("psnr", "PSNR dB", 2),
        Metric("ssim", "SSIM", 4),
        Metric("niqe", "NIQE", 3),
        # Of the rainy image, against the same target.
        Metric("input_psnr", "rainy PSNR dB", 2),
        Metric("input_ssim", "rainy SSIM", 4),
        # Wall-clock time of the restoration; in the first image of a size usually with compilation.
        Metric("seconds", "seconds", 2),
    )
}
# Those of the restored image, whose means have intervals and are compared.
OF_RESULTS = ("psnr", "ssim", "niqe")


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of n images by one protocol; never empty.

    Attributes:
        names: of the images, n of them.
        columns: float64 (n,) by the field of METRICS, in its order; what was not measured has none.
        protocol: its name; None for a score without a target.

    Raises:
        ValueError: no images, a column of another length, or an unknown protocol.
    """

    names: Sequence[str]
    columns: Mapping[str, np.ndarray]
    protocol: str | None

    def __post_init__(self) -> None:
        if self.protocol is not None:
            get_protocol(self.protocol)
        if not self.names:
            raise ValueError("scores are of at least one image")
        for field, column in self.columns.items():
            if column.shape != (len(self.names),):
                raise ValueError(f"{field}: {column.shape} scores of {len(self.names)} images")

    @classmethod
    def of_rows(
        cls, names: Sequence[str], rows: Sequence[Mapping[str, float]], protocol: str | None
    ) -> Scores:
        """From the scores of each image by field, the same fields in all."""
        fields = [field for field in METRICS if rows and field in rows[0]]
        columns = {field: np.array([row[field] for row in rows], np.float64) for field in fields}
        return cls(tuple(names), columns, protocol)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> list[dict[str, float]]:
        """The scores of each image by field."""
        values = zip(*(column.tolist() for column in self.columns.values()), strict=True)
        return [dict(zip(self.columns, row, strict=True)) for row in values]

    @cached_property
    def means(self) -> dict[str, float]:
        """Over all images, by field: infinite as soon as one score is."""
        return {field: math.fsum(column) / len(column) for field, column in self.columns.items()}

    def finite_mean(self, field: str) -> float | None:
        """Over the images with a finite score; None if there is none."""
        finite = self.columns[field][np.isfinite(self.columns[field])]
        return math.fsum(finite) / len(finite) if len(finite) else None

    def where(self, mask: np.ndarray) -> list[str]:
        """Names of the images under a mask, bool (n,)."""
        return [name for name, chosen in zip(self.names, mask, strict=True) if chosen]

    def infinite(self, *fields: str) -> list[str]:
        """Names of the images with an infinite score in one of some columns.

        Of 'psnr': those whose luminance does not differ from the target's.
        """
        return self.where(np.any([np.isinf(self.columns[field]) for field in fields], axis=0))

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """Of the means of OF_RESULTS, by field; see `statistics.mean_interval`."""
        return {field: mean_interval(column) for field, column in self._of_results()}

    def differences(self, baseline: Scores) -> dict[str, PairedDifference]:
        """From other scores of the same images in the same order, by field of OF_RESULTS."""
        return {
            field: paired_difference(column, baseline.columns[field])
            for field, column in self._of_results()
        }

    def _of_results(self) -> list[tuple[str, np.ndarray]]:
        return [(field, self.columns[field]) for field in OF_RESULTS if field in self.columns]
