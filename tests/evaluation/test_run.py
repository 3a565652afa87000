"""A run's data sets, scored with everything that is written about them."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.miniature_sets import ddn, rain200, rain800

from drsformer_jax.cli import evaluate as program
from drsformer_jax.data.images import read_rgb
from drsformer_jax.data.sets import SETS
from drsformer_jax.data.sources import Pair
from drsformer_jax.data.splits import split_for_test
from drsformer_jax.datasets.build import build
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation import run
from drsformer_jax.evaluation.pictures import Shown
from drsformer_jax.evaluation.run import Options, Task, evaluate_workdir
from drsformer_jax.inference import batches
from drsformer_jax.inference.batches import Restored, restore_grouped, restore_one_by_one
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.scores.metrics import score_restored

CONFIG = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'rain200h.py'}"


def dimmed(params: dict, image: jax.Array) -> jax.Array:
    """In the place of the network: the darker, the further right and down in its view."""
    height, width = image.shape[1:3]
    ramp = jnp.linspace(1, 0.5, height)[:, None] * jnp.linspace(1, 0.7, width)
    return image * ramp[None, ..., None]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run whose network is `dimmed`."""
    derain = Derainer(DRSformerConfig(), {}, restore=dimmed)
    monkeypatch.setattr(Derainer, "load", lambda workdir, devices=1: derain)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    return tmp_path / "run"


def evaluate(workdir: Path, *flags: str) -> int:
    return program.run(["eval.py", CONFIG, f"--workdir={workdir}", *flags], "")


def rainy_pairs(count: int) -> list[Pair]:
    targets = [np.random.default_rng(i).integers(0, 200, (16, 20, 3)) for i in range(count)]
    return [
        {"input": np.uint8(target + 10), "target": np.uint8(target), "name": f"{i:03d}"}
        for i, target in enumerate(targets)
    ]


def test_scores_stand_in_the_order_of_the_source(tmp_path: Path) -> None:
    source = rainy_pairs(3)

    def backwards(pairs: Iterator[tuple[int, Pair]]) -> Iterator[Restored]:
        for index, pair in reversed(list(pairs)):
            yield Restored(index, pair, pair["input"] - np.uint8(6 + index), 0.5 + index)

    scores = run.evaluate(Task("t", source, "did_ddn"), backwards, tmp_path)
    assert scores.names == ("000", "001", "002")
    assert scores.rows == [
        score_restored(pair, pair["input"] - np.uint8(6 + i), "did_ddn") | {"seconds": 0.5 + i}
        for i, pair in enumerate(source)
    ]
    for i, pair in enumerate(source):
        restored = read_rgb(tmp_path / "restored" / f"{pair['name']}.png")
        np.testing.assert_array_equal(restored, pair["input"] - np.uint8(6 + i))


def test_the_worst_and_the_best_images_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = iter((5, 9, 2, 7, 3, 8))
    restore = partial(restore_one_by_one, lambda image: image + np.uint8(next(added)))
    shown = []

    def sheet(rows: list[Shown]) -> np.ndarray:
        shown.append([row.name for row in rows])
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(run, "sheet", sheet)
    run.evaluate(Task("t", rainy_pairs(6), "basicsr"), restore, tmp_path)
    assert shown == [["001", "005", "003", "000"], ["002", "004", "000", "003"]]


def test_a_source_that_cannot_be_scored(tmp_path: Path) -> None:
    restore = partial(restore_one_by_one, lambda image: image)
    with pytest.raises(UserError, match="no image pairs"):
        run.evaluate(Task("t", [], "rain200"), restore, tmp_path)
    source = rainy_pairs(2)
    source[1]["target"] = source[1]["target"][:12]
    with pytest.raises(UserError, match=r"001: .* it is 20 x 16 pixels, its target 20 x 12"):
        run.evaluate(Task("t", source, "rain200"), restore, tmp_path)


def test_several_sets_in_one_table(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rain200(tmp_path / "h")
    rain800(tmp_path / "eight")
    ddn(tmp_path / "ddn")
    build("ddn", tmp_path / "ddn", tmp_path / "sets", form="raw", partial=True)
    sets = {"rain200h": "h", "rain800": "eight", "ddn": "sets/ddn", "mine": "h/train"}
    flags = [f"--set={name}={tmp_path / folder}" for name, folder in sets.items()]
    assert evaluate(workdir, *flags) == 0
    printed = capsys.readouterr().out
    assert "mine, protocol rain200" in printed
    assert "Rain200H: 2 images, but the test split has 200" in printed
    evaluation = workdir / "evaluation"
    document = json.loads((evaluation / "results.json").read_text())
    assert [
        (one["name"], one["images"], one["protocol"]) for one in document["results"]
    ] == [
        ("rain200h", 2, "rain200"), ("rain800", 2, "rain200"), ("ddn", 14, "did_ddn"),
        ("mine", 4, "rain200"),
    ]  # fmt: skip
    assert "| DDN-Data | 14 | did_ddn |" in (evaluation / "results.md").read_text()
    for name in sets:
        for picture in ("worst", "best", "histogram"):
            assert (evaluation / name / f"{picture}.png").is_file()
    rows = list(csv.DictReader((evaluation / "mine" / "scores.csv").open()))
    assert [row["name"] for row in rows] == ["1", "2", "3", "4"]
    restored = read_rgb(evaluation / "mine" / "restored" / "2.png")
    rainy = read_rgb(tmp_path / "h/train/input/2.png")
    np.testing.assert_array_equal(restored, Derainer.load(workdir)(rainy))


def test_a_disk_that_is_full(
    workdir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rain200(tmp_path / "h")
    monkeypatch.setattr(run, "write_rows", full)
    assert evaluate(workdir, f"--config.data.val={tmp_path / 'h/test'}") == 2
    told = f"eval.py: error: {workdir}/evaluation cannot be written: No space left on device\n"
    assert capsys.readouterr().err == told


def test_pictures_of_an_earlier_evaluation_do_not_stay(workdir: Path, tmp_path: Path) -> None:
    rain200(tmp_path / "h")
    own = f"--config.data.val={tmp_path / 'h/train'}"
    assert evaluate(workdir, own) == 0
    restored = workdir / "evaluation" / "restored"
    assert {path.name for path in restored.iterdir()} == {f"{i}.png" for i in (1, 2, 3, 4)}
    assert evaluate(workdir, f"--config.data.val={tmp_path / 'h/test'}") == 0
    assert {path.name for path in restored.iterdir()} == {"1.png", "2.png"}


def test_how_images_were_restored_is_told_and_matters(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rain200(tmp_path / "h")
    task = Task("h", split_for_test(tmp_path / "h", None), "rain200")
    planned = []
    for_sizes = Derainer.for_sizes
    monkeypatch.setattr(
        Derainer,
        "for_sizes",
        lambda self, sizes, **tiling: planned.append(sizes) or for_sizes(self, sizes, **tiling),
    )
    psnr = {}
    settings = (
        Options(),
        Options(tile=24, overlap=8),
        Options(orientations=2),
        Options(orientations=8),
    )
    for options in settings:
        text = evaluate_workdir(workdir, [task], options, own=True)
        found = json.loads((workdir / "evaluation" / "results.json").read_text())
        psnr[options] = found["results"][0]["psnr"]
        assert found["setting"]["ensemble"] == (options.orientations > 1)
        assert found["setting"].get("orientations", 1) == options.orientations
        assert ("tiles of 24 pixels, overlap 8" in text) == bool(options.tile)
        assert ("eight flips" in text) == (options.orientations == 8)
        assert ("its mirror image" in text) == (options.orientations == 2)
    assert len(set(psnr.values())) == len(settings)
    whole, tiled, mirrored, flipped = planned
    assert (
        whole
        == tiled
        == mirrored
        == [task.source[i]["input"].shape[:2] for i in range(len(task.source))]
    )
    assert flipped == whole + [size[::-1] for size in whole]


def test_images_of_one_size_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "restore", lambda config, params, image: dimmed(params, image))
    rain200(tmp_path / "h")
    source = split_for_test(tmp_path / "h/train", SETS["rain200h"])
    pairs = [(index, source[index]) for index in range(4)]
    config = DRSformerConfig()
    one_by_one = Derainer(config, {}, restore=dimmed)
    # Two of each size.
    together = batches.BatchDerainer(config, {}, per_device=2)
    assert together.images_at_a_time == 2 * jax.local_device_count()
    shapes = []
    monkeypatch.setattr(
        batches.BatchDerainer,
        "__call__",
        lambda self, images, call=batches.BatchDerainer.__call__: (
            shapes.append([image.shape for image in images]) or call(self, images)
        ),
    )
    grouped = {one.index: one.image for one in restore_grouped(one_by_one, together, iter(pairs))}
    assert sorted(shapes) == [[(33, 49, 3)] * 2, [(49, 33, 3)] * 2]
    assert grouped.keys() == {0, 1, 2, 3}
    for one in restore_one_by_one(one_by_one, iter(pairs)):
        np.testing.assert_array_equal(grouped[one.index], one.image)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set=rain200h"], "--set rain200h: must be NAME=FOLDER"),
        (["--set=../x=/tmp"], "--set ../x=/tmp: must be NAME=FOLDER"),
        (["--set=a=/tmp", "--set=a=/var"], "--set a=/var: a is there twice"),
        (["--set=a=/nowhere"], "/nowhere: no such folder"),
        (["--set=results.json=/tmp"], "results.json is what eval.py itself writes"),
        (["--set=Restored=/tmp"], "--set Restored=/tmp: Restored is what eval.py itself writes"),
        (["--tile=12"], "--tile must be a positive multiple of 8"),
        (["--tile=16", "--overlap=16"], "--overlap must be smaller than --tile"),
        (["--config.eval.batch_size=0"], "config.eval.batch_size: must be at least 1"),
        (["--config.eval.data_set=rain"], "unknown data set 'rain'"),
        (["--config.eval.protocol=ssim"], "config.eval.protocol: unknown protocol 'ssim'"),
    ],
)
def test_mistakes(
    flags: list[str],
    message: str,
    workdir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rain200(tmp_path / "h")
    assert evaluate(workdir, f"--config.data.val={tmp_path / 'h/test'}", *flags) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_a_split_that_is_missing(tmp_path: Path) -> None:
    rain200(tmp_path / "h")
    (tmp_path / "h/test").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="h: holds no test split, only train"):
        split_for_test(tmp_path / "h", None)
