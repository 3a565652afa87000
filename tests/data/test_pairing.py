"""Rainy and clean files by name, in the schemes of the data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.data.pairing import pair_by_name


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


@pytest.mark.parametrize(
    ("scheme", "pairs"),
    [
        ("same name", {"1.png": "1.png", "2.jpg": "2.png"}),
        ("same name", {"rain-1.png": "rain-1.png", "901_1.png": "901_1.jpg"}),
        ("words taken off", {"rain-1.png": "norain-1.png", "rain-12.png": "norain-12.png"}),
        ("words taken off", {"norain-1x2.png": "norain-1.png", "norain-2x2.png": "norain-2.png"}),
        ("words taken off", {"rain-001.png": "norain-1.png", "rain-010.png": "norain-10.png"}),
        ("words taken off", {"a_rain.png": "a_clean.png", "train.png": "train_gt.png"}),
        ("words taken off", {"007_rain.png": "007gt.png"}),
        ("words taken off", {"1_GT.png": "1.png", "3x2.png": "3.png"}),
        (
            "numbered versions",
            {"901_1.jpg": "901.jpg", "901_14.jpg": "901.jpg", "7_2.jpg": "7.jpg"},
        ),
        ("numbered versions", {"a_b_3.jpg": "a_b.jpg"}),
    ],
)
def test_schemes(scheme: str, pairs: dict[str, str]) -> None:
    found = pair_by_name(paths(*pairs), paths(*set(pairs.values())))
    assert found.scheme == scheme
    assert {pair.input.name: pair.target.name for pair in found.pairs} == pairs
    assert found.faults == 0
    assert [pair.name for pair in found.pairs] == sorted(Path(name).stem for name in pairs)


def test_the_scheme_that_leaves_fewest_over() -> None:
    inputs = paths("9_1.jpg", "9_2.jpg", "8_1.jpg", "7_1.jpg")
    found = pair_by_name(inputs, paths("9.jpg", "8.jpg", "6.jpg"))
    assert found.scheme == "numbered versions"
    assert [pair.name for pair in found.pairs] == ["8_1", "9_1", "9_2"]
    assert [path.name for path in found.lone_inputs] == ["7_1.jpg"]
    assert [path.name for path in found.lone_targets] == ["6.jpg"]


def test_nothing_in_common() -> None:
    found = pair_by_name(paths("a.png", "b.png"), paths("c.png"))
    assert (found.scheme, len(found.pairs), found.faults) == ("same name", 0, 3)


def test_a_name_that_two_files_have_pairs_neither_silently() -> None:
    found = pair_by_name(paths("rain-1.png", "rain-01.png"), paths("norain-1.png"))
    assert found.scheme == "words taken off"
    assert found.ambiguous == ("rain-1.png: rain-01.png pairs alike",)
    found = pair_by_name(paths("1.png", "1.jpg"), paths("1.png"))
    assert found.ambiguous == ("1.png: 1.jpg has the same name without suffix",)
