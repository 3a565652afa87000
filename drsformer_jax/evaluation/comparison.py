"""Several methods over the same images: their means, and how each differs from the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drsformer_jax.data.images import read_rgb
from drsformer_jax.errors import UserError, enumerated, out_of_memory
from drsformer_jax.evaluation.dataset import score_pairs
from drsformer_jax.evaluation.methods import Method
from drsformer_jax.evaluation.pairing import FilePair
from drsformer_jax.scores.niqe import niqe
from drsformer_jax.scores.niqe_model import PristineModel
from drsformer_jax.scores.protocols import get_protocol
from drsformer_jax.scores.statistics import (
    Interval,
    PairedDifference,
    mean_interval,
    paired_difference,
)


@dataclass(frozen=True)
class Metric:
    """A kind of score: `field` in files, `title` and `decimals` in tables."""

    field: str
    title: str
    decimals: int


# As many decimals as the papers print.
PSNR = Metric("psnr", "PSNR dB", 2)
SSIM = Metric("ssim", "SSIM", 4)
NIQE = Metric("niqe", "NIQE", 3)


@dataclass(frozen=True)
class MethodScore:
    """A method's score of each image: `values[metric.field]` is float64 (n,)."""

    method: Method
    values: dict[str, np.ndarray]

    def mean(self, metric: Metric) -> float:
        """Over all images: infinite as soon as one score is."""
        return _mean(self.values[metric.field])

    def finite_mean(self, metric: Metric) -> float | None:
        """Over the images with a finite score; None if there is none."""
        finite = self.values[metric.field][np.isfinite(self.values[metric.field])]
        return _mean(finite) if len(finite) else None

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """Of the mean of each metric, by its field; see `statistics.mean_interval`."""
        return {field: mean_interval(values) for field, values in self.values.items()}


@dataclass(frozen=True)
class Comparison:
    """Methods over the same images, the first of them the one to compare with.

    Attributes:
        title: what was measured, one line.
        protocol: of PSNR and SSIM; None for a score without a target.
        metrics: what each method has a score in.
        images: names, n of them.
        methods: at least one.
        model: of NIQE, what it was estimated from; None for other scores.
    """

    title: str
    protocol: str | None
    metrics: tuple[Metric, ...]
    images: tuple[str, ...]
    methods: tuple[MethodScore, ...]
    model: str | None = None

    @cached_property
    def differences(self) -> tuple[dict[str, PairedDifference], ...]:
        """Of each method but the first, by the metric's field: its scores less the first's."""
        baseline, *others = self.methods
        return tuple(
            {
                field: paired_difference(values, baseline.values[field])
                for field, values in method.values.items()
            }
            for method in others
        )

    def where(self, mask: np.ndarray) -> list[str]:
        """Names of the images under a mask, bool (n,)."""
        return [name for name, chosen in zip(self.images, mask, strict=True) if chosen]


def compare_with_targets(
    methods: Sequence[Method],
    pairs: Sequence[Sequence[FilePair]],
    protocol: str,
    *,
    on_image: Callable[[object], None] | None = None,
) -> Comparison:
    """PSNR and SSIM of every method by a protocol.

    Args:
        methods: at least one.
        pairs: of each method, the same images in the same order.
        protocol: 'rain200', 'did_ddn' or 'basicsr'.
        on_image: called after each image, for progress.

    Raises:
        UserError: as `score_pairs`, for the first method with images that cannot be scored.
        ValueError: unknown protocol.
    """
    rules = get_protocol(protocol)
    metrics = (PSNR, SSIM) if rules.has_ssim else (PSNR,)
    scores = []
    for method, own in zip(methods, pairs, strict=True):
        images = score_pairs(own, protocol, on_image=on_image).images
        values = {
            metric.field: np.array([getattr(image, metric.field) for image in images])
            for metric in metrics
        }
        scores.append(MethodScore(method, values))
    names = tuple(pair.name for pair in pairs[0])
    title = f"protocol {rules.name} ({rules.luminance})"
    return Comparison(title, protocol, metrics, names, tuple(scores))


def compare_niqe(
    methods: Sequence[Method],
    pairs: Sequence[Sequence[FilePair]],
    model: PristineModel,
    *,
    on_image: Callable[[object], None] | None = None,
) -> Comparison:
    """NIQE of every method's images; of the pairs only `result` is read.

    Raises:
        UserError: images cannot be decoded, are too small or flat; the message names them.
    """
    scores = []
    faults: list[str] = []
    for method, own in zip(methods, pairs, strict=True):
        values = []
        for pair in own:
            try:
                values.append(niqe(read_rgb(pair.result), model.mean, model.covariance))
            except UserError as error:
                faults.append(str(error))
            except ValueError as error:
                faults.append(f"{pair.result}: {error}")
            except MemoryError as error:
                faults.append(f"{pair.result}: {out_of_memory(error)}")
            if on_image is not None:
                on_image(pair)
        scores.append(MethodScore(method, {NIQE.field: np.array(values)}))
    if faults:
        total = sum(len(own) for own in pairs)
        count = f"{len(faults)} of {total} images cannot be scored: " if total > 1 else ""
        raise UserError(count + enumerated(faults))
    return Comparison(
        title="NIQE, no target needed, lower is better",
        protocol=None,
        metrics=(NIQE,),
        images=tuple(pair.name for pair in pairs[0]),
        methods=tuple(scores),
        model=model.metadata.get("origin", "unknown"),
    )


def _mean(values: np.ndarray) -> float:
    return math.inf if np.isinf(values).any() else math.fsum(values) / len(values)
