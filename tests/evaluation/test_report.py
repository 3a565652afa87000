"""Reports: what they show, what they leave out, how infinity is written."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

from drsformer_jax.evaluation.dataset import DatasetScore, ImageScore
from drsformer_jax.evaluation.report import format_table, to_json, write_csv, write_json

EVALUATED = DatasetScore(
    "rain200",
    (
        ImageScore("001", 31.234567891, 0.91, 27.0, 0.8, 0.5),
        ImageScore("a long name", 33.0, 0.93, 28.0, 0.84, 1.5),
    ),
)
WITH_INFINITE = DatasetScore(
    "rain200", (ImageScore("a", 30.0, 0.9), ImageScore("b", math.inf, 1.0))
)
PSNR_ONLY = DatasetScore("basicsr", (ImageScore("a", 30.0), ImageScore("b", 31.0)))


def test_table_has_the_protocol_and_the_mean() -> None:
    lines = format_table(EVALUATED).splitlines()
    assert lines[0].startswith("protocol rain200 ")
    assert lines[1].split("  ")[0].strip() == "image"
    assert lines[2].split() == ["mean", "of", "2", "32.12", "0.9200", "27.50", "0.8200", "1.00"]
    assert len(lines) == 3


def test_table_per_image_is_aligned() -> None:
    lines = format_table(EVALUATED, per_image=True).splitlines()
    assert lines[2].split() == ["001", "31.23", "0.9100", "27.00", "0.8000", "0.50"]
    assert lines[3].startswith("a long name  ")
    assert len({len(line) for line in lines[1:]}) == 1


def test_table_leaves_out_what_was_not_measured() -> None:
    table = format_table(PSNR_ONLY, per_image=True)
    assert "protocol basicsr" in table
    assert "PSNR dB" in table
    for absent in ("ssim", "rainy", "seconds", "none", "nan"):
        assert absent not in table.split("\n", 1)[1].lower()


def test_table_says_what_an_infinite_mean_is_made_of() -> None:
    lines = format_table(WITH_INFINITE).splitlines()
    assert lines[2].split() == ["mean", "of", "2", "inf", "0.9500"]
    assert "1 of 2 (b)" in lines[3]
    assert "mean PSNR of the rest: 30.00 dB" in lines[3]
    all_identical = DatasetScore("rain200", WITH_INFINITE.images[1:])
    assert "rest" not in format_table(all_identical)


def test_json_is_strict_and_complete() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(to_json(EVALUATED), parse_constant=refuse)
    assert document["protocol"] == "rain200"
    assert document["count"] == 2
    assert document["mean"]["input_psnr"] == 27.5
    assert document["images"][0] == {
        "name": "001",
        "psnr": 31.234567891,
        "ssim": 0.91,
        "input_psnr": 27.0,
        "input_ssim": 0.8,
        "seconds": 0.5,
    }
    assert document["identical"] == []

    document = json.loads(to_json(WITH_INFINITE), parse_constant=refuse)
    assert document["mean"]["psnr"] == document["images"][1]["psnr"] == "inf"
    assert float(document["mean"]["psnr"]) == math.inf
    assert document["finite_mean_psnr"] == 30.0
    assert document["identical"] == ["b"]
    assert json.loads(to_json(PSNR_ONLY))["mean"]["ssim"] is None


def test_json_has_the_intervals_of_the_means() -> None:
    images = tuple(ImageScore(str(i), 30.0 + i * i, 0.9 + i / 100) for i in range(7))
    intervals = json.loads(to_json(DatasetScore("rain200", images)))["intervals"]
    assert intervals.keys() == {"psnr", "ssim"}
    for field, (low, high) in intervals.items():
        values = [getattr(image, field) for image in images]
        assert min(values) < low < sum(values) / 7 < high < max(values)
    infinite = (*images[:6], ImageScore("6", math.inf, 1.0))
    intervals = json.loads(to_json(DatasetScore("rain200", infinite)))["intervals"]
    assert intervals["psnr"] is None
    assert intervals["ssim"] is not None
    # Too few images, and no SSIM.
    assert json.loads(to_json(PSNR_ONLY))["intervals"] == {"psnr": None}


def test_csv_has_a_row_an_image(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv(path, WITH_INFINITE)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {"name": "a", "protocol": "rain200", "psnr": "30.0", "ssim": "0.9"}
    assert float(rows[1]["psnr"]) == math.inf
    write_csv(path, EVALUATED)
    assert "001,rain200,31.234567891,0.91,27.0,0.8,0.5\n" in path.read_text()


def test_a_name_that_is_no_text_is_written_with_escapes(tmp_path: Path) -> None:
    path, name = tmp_path / "scores", os.fsdecode(b"Stra\xdfe")
    score = DatasetScore("rain200", (ImageScore(name, 30.0), ImageScore("ü", 31.0)))
    write_json(path, score)
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    assert [image["name"] for image in images] == [name, "ü"]
    write_csv(path, score)
    with path.open(encoding="utf-8", newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["Stra\\udcdfe", "ü"]


def test_write_json_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    write_json(path, EVALUATED)
    assert path.read_text() == to_json(EVALUATED)
    assert list(tmp_path.iterdir()) == [path]
