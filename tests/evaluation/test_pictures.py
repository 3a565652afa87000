"""Sheets of images with their errors, and the histogram."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from drsformer_jax.evaluation.pictures import (
    LARGEST_ERROR,
    Shown,
    error_map,
    sheet,
    write_histogram,
)
from drsformer_jax.scores.per_image import Scores


def flat(value: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), (value, 0, 255), np.uint8)


def test_error_map() -> None:
    target = np.full((20, 30, 3), 100, np.uint8)
    restored = target.copy()
    restored[0, 0, 1] -= LARGEST_ERROR // 3
    restored[0, 1, 2] += LARGEST_ERROR
    restored[0, 2, 0] = 255
    found = error_map(restored, target)
    assert found[5, 5].tolist() == [0, 0, 0]
    red, green, blue = found[0, 0].tolist()
    assert red > 240
    assert (green, blue) == (0, 0)
    assert found[0, 1].tolist() == found[0, 2].tolist() == [255, 255, 255]


def test_every_image_is_there_pixel_by_pixel() -> None:
    rows = [
        Shown("a", {"psnr": 30.0, "ssim": 0.9, "input_psnr": 20.0}, flat(10), flat(20), flat(30)),
        Shown("b", {"psnr": math.inf}, flat(40, 30, 20), flat(50, 30, 20), flat(60, 30, 20)),
    ]
    found = sheet(rows)
    for row in rows:
        for image in (row.rainy, row.restored, row.target):
            value, (height, width) = image[0, 0], image.shape[:2]
            inside = (found == value).all(axis=2)
            y, x = np.argwhere(inside)[0]
            assert inside[y : y + height, x : x + width].all()


def test_histogram(tmp_path: Path) -> None:
    names, psnr = [*map(str, range(5)), "same"], np.array([30.0, 31, 32, 33, 34, math.inf])
    scores = Scores(names, {"psnr": psnr, "input_psnr": psnr - 10}, "rain200")
    write_histogram(tmp_path / "h.png", scores, os.fsdecode(rb"$\frac$" b"\xdf"))
    drawn = np.asarray(Image.open(tmp_path / "h.png").convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10
    only = Scores(["same"], {"psnr": np.array([math.inf])}, "rain200")
    write_histogram(tmp_path / "h.png", only, "nothing to show")
