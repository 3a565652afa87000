"""Intervals and the paired test against definitions written out here, and where they end."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special

from drsformer_jax.scores.statistics import (
    MIN_IMAGES,
    RESAMPLES,
    Interval,
    mean_interval,
    paired_difference,
)


def skewed(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 1, count)


def bca_interval(values: np.ndarray, resamples: int) -> tuple[float, float]:
    """Efron (1987), equations 2.3, 6.6 and 6.8: plain, with random numbers of its own."""
    count = len(values)
    rng = np.random.default_rng(99)
    means = np.sort([rng.choice(values, count).mean() for _ in range(resamples)])
    bias = special.ndtri(np.mean(means < values.mean()))
    jackknife = np.array([np.delete(values, i).mean() for i in range(count)])
    deviation = jackknife.mean() - jackknife
    acceleration = np.sum(deviation**3) / (6 * np.sum(deviation**2) ** 1.5)
    ends = []
    for quantile in (0.025, 0.975):
        z = bias + special.ndtri(quantile)
        ends.append(np.quantile(means, special.ndtr(bias + z / (1 - acceleration * z))))
    return ends[0], ends[1]


def sign_flip_p(differences: np.ndarray) -> float:
    """All 2^n sign patterns, one by one."""
    means = [
        np.mean(differences * signs)
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    observed = np.mean(differences)
    one_sided = min(
        np.mean([mean >= observed - 1e-12 for mean in means]),
        np.mean([mean <= observed + 1e-12 for mean in means]),
    )
    return min(1.0, 2 * float(one_sided))


def test_the_interval_is_efrons() -> None:
    values = skewed(3, 25)
    low, high = bca_interval(values, 20_000)
    interval = mean_interval(values)
    assert interval is not None
    tolerance = 0.03 * (high - low)
    assert interval.low == pytest.approx(low, abs=tolerance)
    assert interval.high == pytest.approx(high, abs=tolerance)
    # Scores with a long tail above have an interval with a longer side above, by more than that.
    mean = values.mean()
    assert (interval.high - mean) - (mean - interval.low) > 5 * tolerance


def test_the_interval_of_many_normal_values_is_that_of_the_central_limit() -> None:
    values = np.random.default_rng(0).normal(30, 3, 400)
    interval = mean_interval(values)
    assert interval is not None
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    intervals = [mean_interval(rng.normal(30, 3, 20)) for _ in range(150)]
    covered = np.mean([i is not None and i.low <= 30 <= i.high for i in intervals])
    assert 0.87 <= covered <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least"), [(6, 0.82), (10, 0.87), (20, 0.90), (100, 0.93)])
def test_coverage(count: int, least: float) -> None:
    """Prints what docs/evaluation.md tells: `pytest -m slow -s -k test_coverage`."""
    rng = np.random.default_rng(7)
    intervals = [mean_interval(rng.normal(30, 3, count)) for _ in range(2000)]
    covered = np.mean([i is not None and i.low <= 30 <= i.high for i in intervals])
    print(f"{count} images: {100 * covered:.1f} %")
    assert least <= covered <= 0.97


@pytest.mark.parametrize("count", [6, 9, 13])
def test_p_counts_all_sign_patterns_of_few_images(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.4, 1, count)
    found = paired_difference(30 + differences, np.full(count, 30.0))
    assert found.p_value == pytest.approx(sign_flip_p(differences), rel=1e-9)


def test_p_of_a_difference_on_every_image() -> None:
    ahead = paired_difference(np.arange(6) + 31.0, np.full(6, 30.0))
    assert ahead.p_value == pytest.approx(2 / 2**6)
    behind = paired_difference(np.full(6, 30.0), np.arange(6) + 31.0)
    assert behind.p_value == pytest.approx(2 / 2**6)
    assert behind.mean == -3.5
    # Random patterns: the least that they can show.
    many = paired_difference(np.arange(40) + 31.0, np.full(40, 30.0))
    assert many.p_value == pytest.approx(2 / (RESAMPLES + 1))


def test_p_is_evenly_spread_where_methods_do_not_differ() -> None:
    rng = np.random.default_rng(11)
    found = [paired_difference(rng.normal(0, 1, 8), rng.normal(0, 1, 8)) for _ in range(100)]
    values = np.array([item.p_value for item in found])
    assert np.mean(values < 0.05) < 0.13
    assert 0.3 < np.mean(values < 0.5) < 0.7


def test_pairing_sees_what_means_hide() -> None:
    """Images differ by far more than the methods do, but the methods differ on each."""
    rng = np.random.default_rng(1)
    baseline = rng.normal(30, 5, 20)
    method = baseline + rng.uniform(0.1, 0.3, 20)
    found = paired_difference(method, baseline)
    assert found.count == 20
    assert found.mean == pytest.approx(np.mean(method - baseline))
    assert found.interval is not None
    assert 0.1 < found.interval.low < found.interval.high < 0.3
    assert found.p_value is not None
    assert found.p_value < 0.001
    own, other = mean_interval(method), mean_interval(baseline)
    assert own is not None
    assert other is not None
    assert own.low < other.high


def test_the_same_numbers_every_time() -> None:
    values, others = skewed(0, 30), skewed(1, 30)
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    first = mean_interval(values), paired_difference(values, others)
    np.random.seed(6)  # noqa: NPY002
    second = mean_interval(values), paired_difference(values, others)
    assert first[0] == second[0]
    assert first[1].interval == second[1].interval
    assert first[1].p_value == second[1].p_value


def test_too_few_images() -> None:
    for count in range(1, MIN_IMAGES):
        values = skewed(0, count)
        assert mean_interval(values) is None
        found = paired_difference(values + 1, values)
        assert found.mean == pytest.approx(1)
        assert (found.interval, found.p_value) == (None, None)
    # One fewer, and no difference whatever could be told at 5 %.
    assert 2 / 2 ** (MIN_IMAGES - 1) > 0.05 > 2 / 2**MIN_IMAGES
    assert mean_interval(skewed(0, MIN_IMAGES)) is not None


def test_no_difference_at_all() -> None:
    values = skewed(0, 8)
    found = paired_difference(values, values.copy())
    assert (found.mean, found.interval, found.p_value) == (0, Interval(0, 0), 1)


@pytest.mark.filterwarnings("error")
def test_values_that_are_all_the_same_up_to_rounding() -> None:
    assert mean_interval(np.full(7, 30.5)) == Interval(30.5, 30.5)
    values = np.array([0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2, 0.3, 0.3, 0.3])
    interval = mean_interval(values)
    assert interval is not None
    assert interval.low == interval.high == pytest.approx(0.3)


def test_infinite_scores() -> None:
    inf = math.inf
    assert mean_interval(np.array([30.0, 31, 32, 33, 34, 35, inf])) is None
    method = np.array([inf, inf, 30.0, 31, 32, 33, 34, 35])
    baseline = np.array([inf, 30.0, inf, 30, 30, 30, 30, 30])
    found = paired_difference(method, baseline)
    # Both infinite: no difference. One: no number; left out, and known to be.
    np.testing.assert_array_equal(found.used, [True, False, False, True, True, True, True, True])
    assert found.count == 6
    assert found.mean == pytest.approx((0 + 1 + 2 + 3 + 4 + 5) / 6)
    assert found.interval is not None
    assert found.p_value is not None
    nothing = paired_difference(np.full(8, inf), np.full(8, 30.0))
    assert nothing.count == 0
    assert (nothing.mean, nothing.interval, nothing.p_value) == (None, None, None)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="3 scores cannot be paired with 4"):
        paired_difference(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="NaN"):
        mean_interval(np.array([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        mean_interval(np.ones((2, 2)))
