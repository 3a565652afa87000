"""The demonstration's pictures and tables, from made-up scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="the pictures are drawn by matplotlib (extra: demo)")

from demo_pictures import (
    Panel,
    ScoreTable,
    draw_before_after,
    draw_score_table,
    draw_training_curve,
)
from drsformer_jax.scores.per_image import Scores


@pytest.fixture
def table() -> ScoreTable:
    columns = {
        "rainy": {"psnr": np.array([20.0, 24.0]), "ssim": np.array([0.5, 0.7])},
        "demo network": {"psnr": np.array([30.126, math.inf]), "ssim": np.array([0.9, 1.0])},
    }
    return ScoreTable(
        "rain200",
        {name: Scores(["cat", "coffee"], own, "rain200") for name, own in columns.items()},
    )


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_table_as_text(table: ScoreTable) -> None:
    assert table.as_text().splitlines()[1:] == [
        "photograph   rainy               demo network",
        "cat          20.00 dB / 0.5000   30.13 dB / 0.9000",
        "coffee       24.00 dB / 0.7000   identical / 1.0000",
        "mean         22.00 dB / 0.6000   identical / 0.9500",
    ]
    assert "rain200" in table.as_text().splitlines()[0]
    assert table.psnr("demo network", "cat") == 30.126


def test_table_as_json(table: ScoreTable) -> None:
    document = json.loads(table.as_json(), parse_constant=pytest.fail)
    assert document["protocol"] == "rain200"
    assert document["scores"]["cat"]["demo network"] == {"psnr": 30.126, "ssim": 0.9}
    assert document["scores"]["coffee"]["demo network"]["psnr"] == "inf"
    assert document["scores"]["mean"]["rainy"]["psnr"] == 22.0


def test_before_after_shows_every_image_and_its_detail(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    detail_colours = [(250, 100, 100), (100, 250, 100), (100, 100, 250)]
    panels = []
    for name, colour, inside in zip("abc", colours, detail_colours, strict=True):
        image = np.full((64, 96, 3), colour, np.uint8)
        image[10:30, 20:40] = inside
        panels.append(Panel(name, image, None if name == "c" else 20.0))
    path = tmp_path / "before_after.png"
    draw_before_after(path, panels, (slice(10, 30), slice(20, 40)), "rain200")
    drawn = pixels(path)
    width = drawn.shape[1]
    for i, (colour, inside) in enumerate(zip(colours, detail_colours, strict=True)):
        column = drawn[:, round(width * (i + 0.2) / 3) : round(width * (i + 0.8) / 3)]
        for expected in (colour, inside):
            assert (np.abs(column - expected).max(axis=-1) <= 2).mean() > 0.2


def test_score_table_is_drawn(tmp_path: Path, table: ScoreTable) -> None:
    path = tmp_path / "scores.png"
    draw_score_table(path, table)
    drawn = pixels(path)
    assert drawn.min() < 64
    assert (drawn > 200).all(axis=-1).mean() > 0.7


@pytest.mark.parametrize("validated", [True, False])
def test_training_curve_is_drawn(tmp_path: Path, validated: bool) -> None:
    records = [{"step": step, "loss": 1 / step} for step in (10, 20, 30)]
    if validated:
        records.append({"step": 30, "psnr": 25.0, "input_psnr": 20.0})
    path = tmp_path / "curve.png"
    draw_training_curve(path, records)
    assert (pixels(path).max(axis=-1) < 200).any()
    assert list(tmp_path.iterdir()) == [path]
