"""The scores of some images together: means, what is infinite, what they are not made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from drsformer_jax.scores.per_image import METRICS, Scores
from drsformer_jax.scores.statistics import mean_interval, paired_difference


def images(*psnr: float, **columns: list[float]) -> Scores:
    arrays = {"psnr": np.array(psnr)} | {name: np.array(values) for name, values in columns.items()}
    return Scores([chr(ord("a") + i) for i in range(len(psnr))], arrays, "rain200")


def test_rows_and_columns() -> None:
    rows = [{"seconds": 2, "psnr": 30.5, "ssim": 0.9}, {"ssim": 0.8, "psnr": 31.0, "seconds": 1}]
    scores = Scores.of_rows(["a", "b"], rows, "rain200")
    assert len(scores) == 2
    # In the order of tables, whatever that of the rows is.
    assert list(scores.columns) == ["psnr", "ssim", "seconds"]
    assert list(scores.columns) == [field for field in METRICS if field in scores.columns]
    assert scores.rows == rows
    assert scores.means == {"psnr": 30.75, "ssim": pytest.approx(0.85), "seconds": 1.5}


def test_infinite_psnr_is_in_the_mean_and_the_rest_is_told_apart() -> None:
    scores = images(30.0, math.inf, 33.0, ssim=[0.9, 1.0, 1.0])
    assert scores.means == {"psnr": math.inf, "ssim": pytest.approx(2.9 / 3)}
    assert scores.infinite("psnr") == scores.infinite("ssim", "psnr") == ["b"]
    assert scores.infinite("ssim") == []
    assert scores.finite_mean("psnr") == 31.5
    assert images(math.inf).means["psnr"] == math.inf
    assert images(math.inf).finite_mean("psnr") is None


def test_a_mean_is_rounded_once() -> None:
    """Beside 1e16, a sum that is rounded at every step loses each 1."""
    scores = images(1e16, 1.0, 1.0)
    assert scores.means["psnr"] == scores.finite_mean("psnr") == (1e16 + 2) / 3


def test_intervals_and_differences_are_of_the_results() -> None:
    values = [25.0, 26, 27.5, 28, 29, 31, 30]
    scores = images(*values, input_psnr=values, seconds=values)
    assert scores.intervals == {"psnr": mean_interval(np.array(values))}
    assert images(*values[:5]).intervals == {"psnr": None}
    better = images(*(np.array(values) + np.arange(7)), input_psnr=values)
    found, expected = (
        better.differences(scores),
        paired_difference(better.columns["psnr"], scores.columns["psnr"]),
    )
    assert found.keys() == {"psnr"}
    assert (found["psnr"].mean, found["psnr"].p_value) == (3.0, expected.p_value)


def test_what_is_no_table_of_scores() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        Scores([], {}, "rain200")
    with pytest.raises(ValueError, match="at least one image"):
        Scores.of_rows([], [], "rain200")
    with pytest.raises(ValueError, match=r"ssim: \(2,\) scores of 3 images"):
        images(1, 2, 3, ssim=[0.5, 0.6])
    with pytest.raises(ValueError, match="unknown protocol 'niqe'"):
        Scores(["a"], {}, "niqe")
