"""The demonstration's pictures, from made-up scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="the pictures are drawn by matplotlib (extra: demo)")

from demo_pictures import Panel, draw_before_after, draw_text, draw_training_curve


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


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


def test_a_table_is_drawn_as_a_whole(tmp_path: Path) -> None:
    """Dark letters, none of them cut: the border stays white."""
    path = tmp_path / "scores.png"
    draw_text(path, "method   PSNR dB\nrainy      20.00\nnetwork    30.13")
    drawn = pixels(path)
    assert drawn.min() < 64
    assert (drawn > 200).all(axis=-1).mean() > 0.7
    for border in (drawn[:4], drawn[-4:], drawn[:, :4], drawn[:, -4:]):
        assert border.min() == 255


@pytest.mark.parametrize("validated", [True, False])
def test_training_curve_is_drawn(tmp_path: Path, validated: bool) -> None:
    records = [{"step": step, "loss": 1 / step} for step in (10, 20, 30)]
    if validated:
        records.append({"step": 30, "psnr": 25.0, "input_psnr": 20.0})
    path = tmp_path / "curve.png"
    draw_training_curve(path, records)
    assert (pixels(path).max(axis=-1) < 200).any()
    assert list(tmp_path.iterdir()) == [path]
