"""Reports on several methods: what they show, and what they say of what they leave out."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.evaluation.comparison import (
    PSNR,
    SSIM,
    Comparison,
    MethodScore,
)
from drsformer_jax.evaluation.comparison_files import (
    comparison_to_json,
    write_comparison_csv,
    write_comparison_json,
)
from drsformer_jax.evaluation.comparison_report import format_comparison, interval_line
from drsformer_jax.evaluation.dataset import DatasetScore, ImageScore
from drsformer_jax.evaluation.methods import Method
from drsformer_jax.scores.statistics import mean_interval, paired_difference

NAMES = tuple(f"{i:03d}" for i in range(8))
RAINY = np.array([25.0, 26, 27, 28, 29, 30, 31, 32])
BETTER = RAINY + np.array([3.0, 4, 5, 3, 4, 5, 3, 5])


def scored(name: str, psnr: np.ndarray, ssim: np.ndarray | None = None) -> MethodScore:
    values = {"psnr": psnr} | ({} if ssim is None else {"ssim": ssim})
    return MethodScore(Method(name, Path("results") / name), values)


def compared(*methods: MethodScore, names: tuple[str, ...] = NAMES) -> Comparison:
    metrics = (PSNR, SSIM) if "ssim" in methods[0].values else (PSNR,)
    protocol = "rain200" if len(metrics) == 2 else "basicsr"
    return Comparison(f"protocol {protocol} (Y)", protocol, metrics, names, methods)


def first(values: np.ndarray, count: int) -> np.ndarray:
    return values[:count]


def test_the_tables() -> None:
    comparison = compared(scored("rainy", RAINY, RAINY / 40), scored("better", BETTER, BETTER / 40))
    own, difference = mean_interval(BETTER), paired_difference(BETTER, RAINY)
    assert own is not None
    assert difference.interval is not None
    lines = format_comparison(comparison).splitlines()
    assert lines[0] == "protocol rain200 (Y), 8 images"
    assert " ".join(lines[1].split()) == "method PSNR dB 95 % interval SSIM 95 % interval"
    assert lines[2].split()[:2] == ["rainy", "28.50"]
    cells = lines[3].split()
    assert cells[:5] == ["better", "32.50", f"{own.low:.2f}", "to", f"{own.high:.2f}"]
    assert cells[5] == f"{np.mean(BETTER / 40):.4f}"
    assert lines[5] == "difference from rainy, image by image"
    cells = lines[7].split()
    assert cells[:2] == ["better", "+4.00"]
    assert cells[2:5] == [
        f"{difference.interval.low:+.2f}",
        "to",
        f"{difference.interval.high:+.2f}",
    ]
    assert cells[5] == f"{difference.p_value:.3f}" == "0.008"
    assert len({len(line) for line in lines[1:4]}) == 1
    assert len({len(line) for line in lines[6:8]}) == 1
    notes = "\n".join(lines[8:])
    assert "bootstrap over images (9999 resamples)" in notes
    assert "sign-flip permutation test" in notes
    assert "stands alone" not in notes


def test_several_p_values_are_not_read_as_one() -> None:
    comparison = compared(scored("a", RAINY), scored("b", BETTER), scored("c", BETTER + 0.1))
    printed = format_comparison(comparison)
    assert "with 2 comparisons, take 0.05 / 2 = 0.025" in printed
    assert "SSIM" not in printed
    assert [row.split()[0] for row in printed.splitlines()[8:10]] == ["b", "c"]


def test_a_small_p_is_not_printed_as_zero() -> None:
    names = tuple(map(str, range(40)))
    values = np.linspace(25, 30, 40)
    ahead = values + np.linspace(1, 2, 40)
    printed = format_comparison(compared(scored("a", values), scored("b", ahead), names=names))
    assert "<0.001" in printed


def test_too_few_images_are_told() -> None:
    names = NAMES[:5]
    two = compared(scored("a", first(RAINY, 5)), scored("b", first(BETTER, 5)), names=names)
    lines = format_comparison(two).splitlines()
    assert lines[2].split() == ["a", "27.00", "-"]
    assert lines[7].split() == ["b", "+3.80", "-", "-"]
    assert lines[-1] == "no intervals and no test: 5 images, at least 6 are needed"
    one = compared(scored("a", first(RAINY, 1)), names=names[:1])
    assert format_comparison(one).splitlines()[-1] == (
        "no intervals: 1 image, at least 6 are needed"
    )
    document = json.loads(comparison_to_json(two))
    assert document["methods"][0]["intervals"] == {"psnr": None}
    assert document["comparisons"][0]["psnr"]["p_value"] is None


def test_identical_images_are_told() -> None:
    perfect = BETTER.copy()
    perfect[[1, 4]] = math.inf
    comparison = compared(scored("a", RAINY), scored("b", perfect))
    printed = format_comparison(comparison)
    rest = np.mean(perfect[np.isfinite(perfect)])
    assert printed.splitlines()[3].split() == ["b", "inf", "-"]
    assert (
        f"b: no difference in luminance from the target, so infinite PSNR: 2 of 8 (001, 004); \
mean PSNR of the rest: {rest:.2f} dB"
        in printed
    )
    assert "b: 2 images not in the difference of PSNR" in printed
    assert "(001, 004); 6 images left" in printed
    assert "a: no difference" not in printed

    perfect[2] = math.inf
    printed = format_comparison(compared(scored("a", RAINY), scored("b", perfect)))
    assert "(001, 002, 004); no interval and no p: 5 images left, at least 6 are needed" in printed
    everywhere = compared(scored("a", RAINY), scored("b", np.full(8, math.inf)))
    assert format_comparison(everywhere).splitlines()[7].split() == ["b", "-", "-", "-"]
    assert "; none left" in format_comparison(everywhere)


def test_equal_methods_are_told() -> None:
    printed = format_comparison(compared(scored("a", RAINY), scored("b", RAINY.copy())))
    assert "+0.00  +0.00 to +0.00  1.000" in printed
    assert "b: the same PSNR as a on every image" in printed


def test_long_lists_of_names_end() -> None:
    names = tuple(f"{i:02d}" for i in range(30))
    perfect = scored("b", np.full(30, math.inf))
    printed = format_comparison(compared(scored("a", np.arange(30.0)), perfect, names=names))
    assert "08, 09 and 20 more)" in printed
    assert "10" not in printed.split("08, 09")[1].split(")")[0]


def test_json_holds_everything() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    perfect = BETTER.copy()
    perfect[4] = math.inf
    comparison = compared(
        scored("rainy", RAINY, RAINY / 40), scored("better", perfect, BETTER / 40)
    )
    document = json.loads(comparison_to_json(comparison), parse_constant=refuse)
    assert document["protocol"] == "rain200"
    assert document["count"] == 8
    assert document["statistics"]["resamples"] == 9999
    assert document["statistics"]["confidence"] == 0.95
    rainy, better = document["methods"]
    assert (rainy["name"], rainy["path"]) == ("rainy", "results/rainy")
    assert rainy["mean"] == {"psnr": 28.5, "ssim": pytest.approx(28.5 / 40)}
    own = mean_interval(RAINY)
    assert own is not None
    assert rainy["intervals"]["psnr"] == [own.low, own.high]
    assert rainy["infinite"] == []
    assert rainy["images"][2] == {"name": "002", "psnr": 27.0, "ssim": 27 / 40}
    assert better["mean"]["psnr"] == better["images"][4]["psnr"] == "inf"
    assert better["finite_mean"]["psnr"] == pytest.approx(np.delete(BETTER, 4).mean())
    assert better["infinite"] == ["004"]
    assert better["intervals"]["psnr"] is None
    (difference,) = document["comparisons"]
    assert (difference["method"], difference["baseline"]) == ("better", "rainy")
    expected = paired_difference(perfect, RAINY)
    assert expected.interval is not None
    assert difference["psnr"] == {
        "count": 7,
        "left_out": ["004"],
        "mean_difference": expected.mean,
        "interval": [expected.interval.low, expected.interval.high],
        "p_value": expected.p_value,
    }
    assert difference["ssim"]["count"] == 8


def test_csv_has_a_row_an_image_and_method(tmp_path: Path) -> None:
    comparison = compared(scored("a", RAINY, RAINY / 40), scored("b", BETTER, BETTER / 40))
    write_comparison_csv(tmp_path / "scores.csv", comparison)
    with (tmp_path / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 16
    assert list(rows[0]) == ["method", "name", "protocol", "psnr", "ssim"]
    assert [rows[9][key] for key in ("method", "name", "protocol")] == ["b", "001", "rain200"]
    assert float(rows[9]["psnr"]) == BETTER[1]


def test_a_name_that_is_no_text_is_written_with_escapes(tmp_path: Path) -> None:
    path, name = tmp_path / "scores", os.fsdecode(b"Stra\xdfe")
    write_comparison_json(path, compared(scored(name, RAINY)))
    assert json.loads(path.read_text(encoding="utf-8"))["methods"][0]["name"] == name
    write_comparison_csv(path, compared(scored(name, RAINY)))
    with path.open(encoding="utf-8", newline="") as stream:
        assert {row["method"] for row in csv.DictReader(stream)} == {"Stra\\udcdfe"}
    assert list(tmp_path.iterdir()) == [path]


def test_the_line_for_one_method() -> None:
    def dataset(values: np.ndarray, with_ssim: bool = True) -> DatasetScore:
        scores = [
            ImageScore(str(i), float(value), min(value, 40) / 40 if with_ssim else None)
            for i, value in enumerate(values)
        ]
        return DatasetScore("rain200" if with_ssim else "basicsr", tuple(scores))

    psnr, ssim = mean_interval(RAINY), mean_interval(RAINY / 40)
    assert psnr is not None
    assert ssim is not None
    assert interval_line(dataset(RAINY)) == (
        f"95 % interval of the mean: PSNR {psnr.low:.2f} to {psnr.high:.2f} dB, SSIM "
        f"{ssim.low:.4f} to {ssim.high:.4f} (bootstrap over images, 9999 resamples)"
    )
    assert "SSIM" not in interval_line(dataset(RAINY, with_ssim=False))
    assert "none for PSNR, which is infinite, SSIM " in interval_line(
        dataset(np.append(RAINY, math.inf))
    )
    assert interval_line(dataset(RAINY[:5])) == (
        "no 95 % interval of the mean: 5 images, at least 6 are needed"
    )
