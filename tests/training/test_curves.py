"""Curves as SVG: where the points are, and what stands at the axes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from drsformer_jax.training.curves import HEIGHT, WIDTH, Line, chart


def points_of(drawn: str) -> list[np.ndarray]:
    lines = [one for one in ET.fromstring(drawn) if one.tag == "polyline"]
    return [np.array([p.split(",") for p in one.attrib["points"].split()], float) for one in lines]


def labels_of(drawn: str, axis: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(drawn) if one.attrib.get("class") == axis]


@pytest.mark.parametrize(
    ("log", "values", "labels"),
    [
        (False, [0.0, 5.0, 10.0], ["0", "2", "4", "6", "8", "10"]),
        (True, [0.1, 1.0, 10.0], ["0.1", "1", "10"]),
    ],
)
def test_points_lie_where_the_labels_say(log: bool, values: list[float], labels: list[str]) -> None:
    drawn = chart("Loss", [Line("a", [0, 1000, 2000], values)], marks=[1000], log=log)
    (points,) = points_of(drawn)
    assert labels_of(drawn, "y") == labels
    assert labels_of(drawn, "x") == ["0", "500", "1k", "1.5k", "2k"]
    # Evenly in both directions, and higher where the value is.
    np.testing.assert_allclose(np.diff(points, 2, axis=0), 0, atol=0.2)
    assert points[0, 1] > points[2, 1]
    assert (points > 0).all()
    assert (points < [WIDTH, HEIGHT]).all()
    lowest = next(one for one in ET.fromstring(drawn) if one.attrib.get("class") == "y")
    assert float(lowest.attrib["y"]) - 4 == pytest.approx(points[0, 1], abs=0.2)
    assert re.search(rf'class="mark" d="M{points[1, 0]}', drawn)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-9])
def test_one_point_and_no_range(value: float) -> None:
    (points,) = points_of(chart("x", [Line("a", [7], [value])], log=True))
    assert len(points) == 2  # which makes a dot
    assert np.isfinite(points).all()


def test_many_points_are_means() -> None:
    steps = np.arange(100_000)
    (points,) = points_of(chart("x", [Line("a", steps.tolist(), (steps % 2).tolist())]))
    assert len(points) == 600
    assert np.ptp(points[:, 1]) < 5  # of means of 166 or 167
