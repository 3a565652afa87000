"""What is said of one method and of several, and of what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from drsformer_jax.evaluation.comparison import Comparison, Method
from drsformer_jax.evaluation.text import comparison_text, interval_text, scores_text
from drsformer_jax.scores.per_image import Scores
from drsformer_jax.scores.statistics import mean_interval, paired_difference

NAMES = tuple(f"{i:03d}" for i in range(8))
RAINY = np.array([25.0, 26, 27, 28, 29, 30, 31, 32])
BETTER = RAINY + np.array([3.0, 4, 5, 3, 4, 5, 3, 5])


Scored = tuple[str, dict[str, np.ndarray]]


def scored(name: str, psnr: np.ndarray, ssim: np.ndarray | None = None) -> Scored:
    return name, {"psnr": psnr} | ({} if ssim is None else {"ssim": ssim})


def compared(*methods: Scored, names: tuple[str, ...] = NAMES) -> Comparison:
    protocol = "rain200" if "ssim" in methods[0][1] else "basicsr"
    return Comparison(
        [Method(name, Path("results") / name) for name, _ in methods],
        [Scores(names, columns, protocol) for _, columns in methods],
    )


def first(values: np.ndarray, count: int) -> np.ndarray:
    return values[:count]


def test_the_tables() -> None:
    comparison = compared(scored("rainy", RAINY, RAINY / 40), scored("better", BETTER, BETTER / 40))
    own, difference = mean_interval(BETTER), paired_difference(BETTER, RAINY)
    assert own is not None
    assert difference.interval is not None
    lines = comparison_text(comparison).splitlines()
    assert lines[0] == "protocol rain200 (Y rounded to 8 bits), 8 images"
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
    printed = comparison_text(comparison)
    assert "with 2 comparisons, take 0.05 / 2 = 0.025" in printed
    assert "SSIM" not in printed
    assert [row.split()[0] for row in printed.splitlines()[8:10]] == ["b", "c"]


def test_a_small_p_is_not_printed_as_zero() -> None:
    names = tuple(map(str, range(40)))
    values = np.linspace(25, 30, 40)
    ahead = values + np.linspace(1, 2, 40)
    printed = comparison_text(compared(scored("a", values), scored("b", ahead), names=names))
    assert "<0.001" in printed


def test_too_few_images_are_told() -> None:
    names = NAMES[:5]
    two = compared(scored("a", first(RAINY, 5)), scored("b", first(BETTER, 5)), names=names)
    lines = comparison_text(two).splitlines()
    assert lines[2].split() == ["a", "27.00", "-"]
    assert lines[7].split() == ["b", "+3.80", "-", "-"]
    assert lines[-1] == "no intervals and no test: 5 images, at least 6 are needed"
    niqe = Scores(names[:1], {"niqe": np.array([3.0])}, None)
    one = Comparison([Method("a", Path("a"))], [niqe], "of no model")
    assert comparison_text(one).splitlines()[-2:] == [
        "no intervals: 1 image, at least 6 are needed",
        "pristine model: of no model",
    ]


def test_identical_images_are_told() -> None:
    perfect = BETTER.copy()
    perfect[[1, 4]] = math.inf
    comparison = compared(scored("a", RAINY), scored("b", perfect))
    printed = comparison_text(comparison)
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
    printed = comparison_text(compared(scored("a", RAINY), scored("b", perfect)))
    assert "(001, 002, 004); no interval and no p: 5 images left, at least 6 are needed" in printed
    everywhere = compared(scored("a", RAINY), scored("b", np.full(8, math.inf)))
    assert comparison_text(everywhere).splitlines()[7].split() == ["b", "-", "-", "-"]
    assert "; none left" in comparison_text(everywhere)


def test_equal_methods_are_told() -> None:
    printed = comparison_text(compared(scored("a", RAINY), scored("b", RAINY.copy())))
    assert "+0.00  +0.00 to +0.00  1.000" in printed
    assert "b: the same PSNR as a on every image" in printed


def test_long_lists_of_names_end() -> None:
    names = tuple(f"{i:02d}" for i in range(30))
    perfect = scored("b", np.full(30, math.inf))
    printed = comparison_text(compared(scored("a", np.arange(30.0)), perfect, names=names))
    assert "08, 09 and 20 more)" in printed
    assert "10" not in printed.split("08, 09")[1].split(")")[0]


def test_one_method_is_a_comparison_of_one() -> None:
    one = compared(scored("a", RAINY))
    assert comparison_text(one) == f"{scores_text(one.scores[0])}\n{interval_text(one.scores[0])}"


def test_the_line_for_one_method() -> None:
    def dataset(values: np.ndarray, with_ssim: bool = True) -> Scores:
        columns = {"psnr": values} | ({"ssim": np.minimum(values, 40) / 40} if with_ssim else {})
        names = [str(i) for i in range(len(values))]
        return Scores(names, columns, "rain200" if with_ssim else "basicsr")

    psnr, ssim = mean_interval(RAINY), mean_interval(RAINY / 40)
    assert psnr is not None
    assert ssim is not None
    assert interval_text(dataset(RAINY)) == (
        f"95 % interval of the mean: PSNR {psnr.low:.2f} to {psnr.high:.2f} dB, SSIM "
        f"{ssim.low:.4f} to {ssim.high:.4f} (bootstrap over images, 9999 resamples)"
    )
    assert "SSIM" not in interval_text(dataset(RAINY, with_ssim=False))
    assert "none for PSNR, which is infinite, SSIM " in interval_text(
        dataset(np.append(RAINY, math.inf))
    )
    assert interval_text(dataset(RAINY[:5])) == (
        "no 95 % interval of the mean: 5 images, at least 6 are needed"
    )


def test_the_mean_of_the_rest_is_told_where_there_is_a_rest() -> None:
    some = Scores(["a", "b"], {"psnr": np.array([30, math.inf])}, "basicsr")
    assert scores_text(some).splitlines()[3] == (
        "no difference in luminance, so infinite PSNR: 1 of 2 (b); mean PSNR of the rest: 30.00 dB"
    )
    perfect = Scores(["b"], {"psnr": np.array([math.inf])}, "basicsr")
    assert scores_text(perfect).splitlines()[3].endswith("infinite PSNR: 1 of 1 (b)")
    assert len(scores_text(Scores(["a"], {"psnr": np.array([30.0])}, "basicsr")).splitlines()) == 3
