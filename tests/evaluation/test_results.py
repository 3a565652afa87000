"""The results table: what stands beside the paper's value, and what must not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from drsformer_jax.data.sets import SETS, DataSet
from drsformer_jax.evaluation.results import Result, Setting, document, markdown, table
from drsformer_jax.scores.per_image import Scores

SETTING = Setting("newest weights of run", "DRSformer", None, 32, 1, "1 x cpu")


def small(**changes: Any) -> DataSet:
    """Rain200H with a test split of three."""
    return DataSet(**{**vars(SETS["rain200h"]), "pairs": {"train": 4, "test": 3}, **changes})


def score(count: int = 3, protocol: str = "rain200", **changes: Any) -> Scores:
    values = {"psnr": 32.5, "ssim": 0.93, "input_psnr": 13.0, "input_ssim": 0.4} | changes
    row = {field: value for field, value in values.items() if value is not None}
    rows = [row | {"seconds": 10.0 if i == 0 else i} for i in range(count)]
    return Scores.of_rows([str(i) for i in range(count)], rows, protocol)


def cells(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(title))
    return line.split()


def test_a_whole_set_stands_beside_the_paper() -> None:
    result = Result("rain200h", small(), score())
    text = table([result], SETTING)
    # The median of 10, 1 and 2 seconds.
    expected = "Rain200H 3 rain200 32.50 0.9300 32.17 / 0.9326 +0.33 / -0.0026 13.00 / 0.4000 2.00"
    assert " ".join(cells(text, "Rain200H")) == expected
    assert "not to be compared" not in text
    assert "| Rain200H | 3 | rain200 | 32.50 |" in markdown([result], SETTING)
    (found,) = document([result], SETTING)["results"]
    assert (found["psnr"], found["published"]["psnr"], found["complete"]) == (32.5, 32.17, True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"count": 2}, "Rain200H: 2 images, but the test split has 3: not to be compared"),
        ({"protocol": "did_ddn"}, "Rain200H: scored by did_ddn, published scores by rain200"),
    ],
)
def test_what_does_not_compare_has_no_difference(changes: dict[str, Any], why: str) -> None:
    text = table([Result("rain200h", small(), score(**changes))], SETTING)
    assert cells(text, "Rain200H")[5:9] == ["32.17", "/", "0.9326", "-"]
    assert why in text


def test_sets_without_published_scores_and_unknown_ones() -> None:
    results = [Result("rain800", small(title="Rain800", published=None), score())]
    results.append(Result("mine", None, score(ssim=None, input_ssim=None, protocol="basicsr")))
    text = table(results, SETTING)
    assert cells(text, "Rain800")[5:7] == ["-", "-"]
    assert cells(text, "mine") == ["mine", "3", "basicsr", "32.50", "-", "-", "-", "13.00", "2.00"]


def test_identical_images_are_named() -> None:
    text = table([Result("mine", None, score(1, psnr=math.inf))], SETTING)
    assert "mine: 0 equals its target: infinite PSNR" in text


def test_the_setting_is_told() -> None:
    assert SETTING.text() == ("DRSformer; newest weights of run; whole images, one pass; 1 x cpu")
    tiles = Setting("w", "n", 128, 16, 8, "d")
    assert "tiles of 128 pixels, overlap 16, mean of eight flips and rotations" in tiles.text()
    mirrored = Setting("w", "n", 0, 16, 2, "d")
    assert "whole images, mean of the image and its mirror image" in mirrored.text()
