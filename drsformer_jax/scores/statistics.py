"""How sure a mean over images is, and whether two methods differ: arrays in, numbers out.

Images are the sampling unit: a data set is a sample of the photographs that could have been
taken, and both the interval and the test ask what another such sample would have given. Neither
knows of what varies within a method, such as the seed of its training.

**Interval.** Bias-corrected and accelerated (BCa) bootstrap of the mean over images (Efron,
"Better bootstrap confidence intervals", 1987), through `scipy.stats.bootstrap`. It is not
symmetric where the scores are skewed, as PSNR is.

**Test.** Two-sided paired sign-flip permutation test of the mean difference (Fisher, "The design
of experiments", 1935), through `scipy.stats.permutation_test`: if two methods were equally good,
exchanging them on any image would change nothing, so each difference could as well have the other
sign. It tests the very number that the table shows, the difference of the means, assumes no
normal distribution, and is exact; Wilcoxon's signed-rank test asks about ranks instead, so that
its verdict can contradict the means beside it. Up to 13 images all sign patterns are counted,
above that `RESAMPLES` random ones.

Both are reproducible to the bit: the seed is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# scipy.stats takes half a second to import: SciPy does so at its first use.
import scipy

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0

# With five images the sign-flip test cannot fall below p = 2 / 2^5 = 0.0625, however large the
# difference: no result could be significant at 5 %. Six can (0.03125). A bootstrap of fewer values
# knows too little of their spread as well.
MIN_IMAGES = 6

# How many bootstrap samples are held at a time: bounds the memory for thousands of images.
_BATCH = 500


class Interval(NamedTuple):
    """Where the mean of all images that could have been taken lies, with `CONFIDENCE`."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """A method's score less the baseline's, image by image.

    Attributes:
        used: which images count, bool (n,). Two infinite scores (both images equal their target)
            differ by 0; where only one is infinite there is no finite difference, and the image
            is left out.
        mean: of the differences that count; None if there is none.
        interval: of that mean; None below `MIN_IMAGES`.
        p_value: of the paired sign-flip test; 1 where no image differs; None below `MIN_IMAGES`.
    """

    used: np.ndarray
    mean: float | None
    interval: Interval | None
    p_value: float | None

    @property
    def count(self) -> int:
        """Number of images that count."""
        return int(np.count_nonzero(self.used))


def mean_interval(values: np.ndarray) -> Interval | None:
    """Confidence interval of the mean of float (n,), by BCa bootstrap.

    None for fewer than `MIN_IMAGES` values, and if one is infinite: so is the mean then. Values
    that are all the same give an interval of no width.

    Raises:
        ValueError: not one-dimensional, or a value is NaN.
    """
    values = _checked(values)
    if len(values) < MIN_IMAGES or not np.isfinite(values).all():
        return None
    if _constant(values):
        mean = float(np.mean(values))
        return Interval(mean, mean)
    result = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        batch=_BATCH,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(float(result.low), float(result.high))


def paired_difference(method: np.ndarray, baseline: np.ndarray) -> PairedDifference:
    """Mean difference of two methods over the same images, with interval and test.

    Args:
        method: float (n,), the method's score of each image; may be math.inf.
        baseline: likewise, in the same order.

    Raises:
        ValueError: not one-dimensional, of different length, or a value is NaN.
    """
    method, baseline = _checked(method), _checked(baseline)
    if method.shape != baseline.shape:
        raise ValueError(f"{len(method)} scores cannot be paired with {len(baseline)}")
    both_infinite = np.isinf(method) & (method == baseline)
    used = both_infinite | (np.isfinite(method) & np.isfinite(baseline))
    differences = np.zeros(len(method))
    np.subtract(method, baseline, out=differences, where=used & ~both_infinite)
    differences = differences[used]
    if not len(differences):
        return PairedDifference(used, None, None, None)
    return PairedDifference(
        used, float(np.mean(differences)), mean_interval(differences), _sign_flip_p(differences)
    )


def _sign_flip_p(differences: np.ndarray) -> float | None:
    if len(differences) < MIN_IMAGES:
        return None
    if not differences.any():
        return 1.0
    result = scipy.stats.permutation_test(
        (differences,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        alternative="two-sided",
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def _constant(values: np.ndarray) -> bool:
    """Whether values agree up to rounding: a bootstrap of rounding errors divides by zero."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected one score an image, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    return values
