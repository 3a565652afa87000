"""`drsformer score` for several methods, and for photographs without targets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.scores.metrics import psnr
from drsformer_jax.scores.niqe import niqe
from drsformer_jax.scores.niqe_model import PristineModel, packaged, save


def score(*arguments: object) -> int:
    return main(["score", *map(str, arguments)])


@pytest.fixture
def methods(tmp_path: Path) -> Path:
    """rainy/, a/out/ and b/out/ with seven images each, brighter than targets/ by 9, 4 and 2."""
    root = tmp_path / "methods"
    for folder, offset in (("targets", 0), ("rainy", 9), ("a/out", 4), ("b/out", 2)):
        (root / folder).mkdir(parents=True)
        for i in range(7):
            rng = np.random.default_rng(i)
            target = rng.integers(0, 200, (16, 20, 3)).astype(np.uint8)
            harm = np.uint8(offset + i % 2) if offset else np.uint8(0)
            Image.fromarray(target + harm).save(root / folder / f"{i}.png")
    return root


def test_several_methods(methods: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, csv_file = methods / "score.json", methods / "score.csv"
    folders = [methods / name for name in ("rainy", "a/out", "b/out", "targets")]
    arguments = (*folders, "--protocol", "rain200", "--json", json_file, "--csv", csv_file)
    assert score(*arguments) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].startswith("protocol rain200 ")
    assert [line.split()[0] for line in lines[2:5]] == ["rainy", "a/out", "b/out"]
    assert "difference from rainy, image by image" in lines
    document = json.loads(json_file.read_text())
    assert [method["name"] for method in document["methods"]] == ["rainy", "a/out", "b/out"]
    for method, row, folder in zip(document["methods"], lines[2:5], folders, strict=False):
        values = [
            psnr(
                *(np.asarray(Image.open(f / f"{i}.png")) for f in (folder, folders[-1])), "rain200"
            )
            for i in range(7)
        ]
        assert [image["psnr"] for image in method["images"]] == values
        assert row.split()[1] == f"{np.mean(values):.2f}"
    assert [item["method"] for item in document["comparisons"]] == ["a/out", "b/out"]
    assert all(
        item["psnr"]["p_value"] == pytest.approx(2 / 2**7) for item in document["comparisons"]
    )
    with csv_file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 21
    assert float(rows[20]["psnr"]) == document["methods"][2]["images"][6]["psnr"]


def test_methods_can_be_named_and_flags_stand_anywhere(
    methods: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rainy, ours, targets = methods / "rainy", methods / "b/out", methods / "targets"
    assert score(f"input={rainy}", f"ours={ours}", targets, "--protocol", "basicsr") == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:4]] == ["input", "ours"]
    assert score("--protocol", "basicsr", f"input={rainy}", f"ours={ours}", targets) == 0
    assert capsys.readouterr().out == printed
    assert score(f"input={rainy}", "--protocol", "basicsr", f"ours={ours}", targets) == 0
    assert capsys.readouterr().out == printed
    # So could they always, with one method.
    assert score(rainy, targets, "--protocol", "basicsr") == 0
    printed = capsys.readouterr().out
    assert score(rainy, "--protocol", "basicsr", targets) == 0
    assert capsys.readouterr().out == printed
    assert score(f"input={rainy}", targets, "--protocol", "basicsr") == 0
    assert capsys.readouterr().out == printed


def test_several_files(methods: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [methods / name / "0.png" for name in ("rainy", "a/out", "targets")]
    assert score(*files, "--protocol", "rain200") == 0
    printed = capsys.readouterr().out
    assert "rainy/0 " in printed
    assert "no intervals and no test: 1 image" in printed


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """clean/ and noisy/ with an image each, large enough for NIQE."""
    rng = np.random.default_rng(0)
    image = np.cumsum(rng.normal(0, 9, (100, 200, 3)), axis=1) % 200
    for name, noise in (("clean", 0), ("noisy", 30)):
        (tmp_path / name).mkdir()
        noisy = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / name / "street.png")
    return tmp_path


def test_photographs_without_a_target(
    photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, csv_file = photographs / "score.json", photographs / "score.csv"
    flags = ("--no-reference", "niqe", "--json", json_file, "--csv", csv_file)
    assert score(photographs / "clean", photographs / "noisy", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NIQE, no target needed, lower is better, 1 image")
    model = packaged()
    means = {}
    for line in lines[2:4]:
        name, mean, interval = line.split()
        image = np.asarray(Image.open(photographs / name / "street.png"))
        means[name] = niqe(image, model.mean, model.covariance)
        assert (mean, interval) == (f"{means[name]:.3f}", "-")
    document = json.loads(json_file.read_text())
    assert document["protocol"] is None
    assert "Rain100L" in document["model"]
    assert {item["name"]: item["mean"]["niqe"] for item in document["methods"]} == means
    assert csv_file.read_text().splitlines()[0] == "method,name,niqe"
    # One folder, one file.
    for path in (photographs / "clean", photographs / "clean" / "street.png"):
        assert score(path, "--no-reference", "niqe") == 0
        printed = capsys.readouterr().out
        assert f"{means['clean']:.3f}" in printed
        assert "difference" not in printed


def test_another_pristine_model(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = PristineModel(np.zeros(36), np.eye(36), {"origin": "nothing at all"})
    file = photographs / "model.safetensors"
    save(file, model)
    clean, flags = photographs / "clean", ("--no-reference", "niqe", "--niqe-model", file)
    assert score(clean, *flags) == 0
    printed = capsys.readouterr().out
    image = np.asarray(Image.open(clean / "street.png"))
    assert f"{niqe(image, model.mean, model.covariance):.3f}" in printed
    assert "pristine model: nothing at all" in printed
    assert score(clean, clean, "--protocol", "rain200", "--niqe-model", file) == 2
    assert "--niqe-model goes with --no-reference" in capsys.readouterr().err
    assert score(clean, *flags[:-1], clean / "street.png") == 2
    assert "street.png: no model of NIQE" in capsys.readouterr().err


def test_mistakes_with_several_methods(methods: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rainy, ours, targets = methods / "rainy", methods / "b/out", methods / "targets"
    protocol, without = ("--protocol", "rain200"), ("--no-reference", "niqe")
    (ours / "3.png").unlink()
    cases = [
        ((rainy, *protocol), "RESULTS and TARGETS are needed, but only"),
        ((rainy, ours, targets, *protocol), "b/out has no partner for 3"),
        ((rainy, ours, *without), "b/out has no partner for 3"),
        ((rainy, rainy, methods / "nowhere", *protocol), "nowhere: no such file or folder"),
        ((rainy, methods / "nowhere", targets, *protocol), "nowhere: no such file or folder"),
        ((f"a={rainy}", f"a={rainy}", targets, *protocol), "a: more than one method has this name"),
        ((rainy, *without), "rainy/0.png: NIQE needs two blocks of 96 x 96 pixels"),
        ((rainy, targets, *protocol, "--jsn", "x"), "unrecognized arguments: --jsn"),
        ((rainy, rainy, targets / "0.png", *protocol), "must be all folders or all images"),
        ((methods / "nowhere", *without), "nowhere: no such file or folder"),
    ]
    for arguments, complaint in cases:
        assert score(*arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("drsformer: error: ")
        assert complaint in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
