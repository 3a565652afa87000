"""Sheets of images with their errors, and the histogram."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from drsformer_jax.evaluation.dataset import DatasetScore, ImageScore
from drsformer_jax.evaluation.pictures import (
    LARGEST_ERROR,
    Shown,
    error_map,
    sheet,
    write_histogram,
)


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
        Shown(ImageScore("a", 30.0, 0.9, 20.0), flat(10), flat(20), flat(30)),
        Shown(ImageScore("b", math.inf), flat(40, 30, 20), flat(50, 30, 20), flat(60, 30, 20)),
    ]
    found = sheet(rows)
    for row in rows:
        for image in (row.rainy, row.restored, row.target):
            value, (height, width) = image[0, 0], image.shape[:2]
            inside = (found == value).all(axis=2)
            y, x = np.argwhere(inside)[0]
            assert inside[y : y + height, x : x + width].all()


def test_histogram(tmp_path: Path) -> None:
    images = [ImageScore(str(i), 30.0 + i, input_psnr=20.0 + i) for i in range(5)]
    images.append(ImageScore("same", math.inf, input_psnr=math.inf))
    write_histogram(
        tmp_path / "h.png", DatasetScore("rain200", tuple(images)), os.fsdecode(b"w\xdf")
    )
    drawn = np.asarray(Image.open(tmp_path / "h.png").convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10
    only = DatasetScore("rain200", (ImageScore("same", math.inf),))
    write_histogram(tmp_path / "h.png", only, "nothing to show")
