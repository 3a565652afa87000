"""Scores a training run: restored images, tables, pictures and files in WORKDIR/evaluation."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drsformer_jax.data.images import write_png
from drsformer_jax.data.sets import DataSet
from drsformer_jax.data.sources import Pair, PairSource
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.documents import scores_document, scores_rows
from drsformer_jax.evaluation.pictures import Shown, can_draw_histogram, sheet, write_histogram
from drsformer_jax.evaluation.results import Result, Setting, document, markdown, table
from drsformer_jax.evaluation.text import scores_text
from drsformer_jax.files import write_json, write_rows, write_text
from drsformer_jax.inference.batches import (
    BatchDerainer,
    Restored,
    restore_grouped,
    restore_one_by_one,
)
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.inference.ensemble import derain_eightfold
from drsformer_jax.inference.tiles import DEFAULT_OVERLAP, check_tiling
from drsformer_jax.scores.metrics import score_restored
from drsformer_jax.scores.per_image import Scores
from drsformer_jax.scores.protocols import get_protocol

DIRECTORY = "evaluation"
RESTORED = "restored"  # images, in it or in the folder of their set

# Of the best and of the worst images.
PICTURES = 4

# Restores numbered pairs.
Restorer = Callable[[Iterator[tuple[int, Pair]]], Iterator[Restored]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is scored.

    Attributes:
      name: of the results; also of a folder of its own, where there is more than the run's own set.
      source: the pairs.
      protocol: of the score.
      data_set: which one it is; None: none that is known.
    """

    name: str
    source: PairSource
    protocol: str
    data_set: DataSet | None = None

    def __post_init__(self) -> None:
        try:
            get_protocol(self.protocol)
        except ValueError as error:
            raise UserError(f"config.eval.protocol: {error}") from error


@dataclasses.dataclass(frozen=True)
class Options:
    """How images are restored.

    Attributes:
      tile, overlap: as for `Derainer`.
      ensemble: the mean over eight flips and rotations.
      per_device: images at a time on a device, all of one size.
    """

    tile: int | None = None
    overlap: int = DEFAULT_OVERLAP
    ensemble: bool = False
    per_device: int = 1

    def __post_init__(self) -> None:
        check_tiling(self.tile, self.overlap)
        if self.per_device < 1:
            raise UserError(f"config.eval.batch_size: must be at least 1, not {self.per_device}")


def evaluate_workdir(workdir: Path, tasks: Sequence[Task], options: Options, *, own: bool) -> str:
    """Restores every image of some sources with a run's newest weights, and scores the results.

    Writes into WORKDIR/evaluation (`own`: the run's own set alone) or WORKDIR/evaluation/NAME:
    scores.json, scores.csv, restored/NAME.png, worst.png, best.png and histogram.png; and of all
    together WORKDIR/evaluation/results.json and results.md.

    Returns:
      The tables of scores.

    Raises:
      UserError: no checkpoint in the workdir or a pair that cannot be scored.
    """
    import jax

    derain = Derainer.load(workdir)
    several = jax.local_device_count() > 1 or options.per_device > 1
    together = None
    if several and not (options.ensemble or options.tile):
        together = BatchDerainer(derain.config, derain.params, options.per_device)
    results, texts = [], []
    for task in tasks:
        if together is None:
            restore = _one_by_one(derain, task.source, options)
        else:
            restore = partial(restore_grouped, derain, together)
        folder = workdir / DIRECTORY / ("" if own else task.name)
        scores = evaluate(task, restore, folder)
        texts.append(f"{task.name}, {scores_text(scores, per_image=True)}\n")
        results.append(Result(task.name, task.data_set, scores))
    device = jax.local_devices()[0]
    setting = Setting(
        weights=f"newest weights of {workdir}",
        network=derain.config.summary(),
        tile=options.tile,
        overlap=options.overlap,
        ensemble=options.ensemble,
        devices=f"{jax.local_device_count()} x {device.device_kind}",
    )
    write_json(workdir / DIRECTORY / "results.json", document(results, setting))
    write_text(workdir / DIRECTORY / "results.md", markdown(results, setting))
    note = "" if can_draw_histogram() else " (no histogram: pip install 'drsformer_jax[demo]')"
    texts += [table(results, setting), f"written to {workdir / DIRECTORY}{note}"]
    return "\n".join(texts)


def _one_by_one(derain: Derainer, source: PairSource, options: Options) -> Restorer:
    """The function that restores the numbered pairs of a source, in few programs."""
    sizes = [source[index]["input"].shape[:2] for index in range(len(source))]
    if options.ensemble:
        sizes += [(width, height) for height, width in sizes]
    derain = derain.for_sizes(sizes, tile=options.tile, overlap=options.overlap)
    restore: Callable[..., Any] = derain
    if options.ensemble:
        restore = partial(derain_eightfold, derain)
    # In tiles as the authors' program joins them, so that scores stay comparable.
    one = partial(restore, tile=options.tile, overlap=options.overlap, blend="uniform")
    return partial(restore_one_by_one, one)


def evaluate(task: Task, restore: Restorer, folder: Path) -> Scores:
    """Scores a source's images, restored and rainy, and writes all files about them.

    Args:
      restore: gives the restored pairs in any order; the scores are in that of their numbers.

    Raises:
      UserError: there are none; or a pair cannot be scored (sizes differ, or too small for the
        protocol), named.
      ValueError: a restored image is not like its target.
    """
    restored_folder = folder / RESTORED
    restored_folder.mkdir(parents=True, exist_ok=True)
    for stale in restored_folder.glob("*.png"):
        stale.unlink()
    rows: dict[int, tuple[str, dict[str, float]]] = {}
    best: list[Shown] = []
    worst: list[Shown] = []
    pairs = ((index, task.source[index]) for index in range(len(task.source)))
    with tqdm(
        total=len(task.source), desc=task.name, unit="image", leave=False, disable=None
    ) as bar:
        for restored in restore(pairs):
            pair, name = restored.pair, str(restored.pair["name"])
            row = score_restored(pair, restored.image, task.protocol)
            rows[restored.index] = name, row | {"seconds": restored.seconds}
            write_png(restored_folder / f"{name}.png", restored.image)
            shown = Shown(name, row, pair["input"], restored.image, pair["target"])
            best = heapq.nlargest(PICTURES, [*best, shown], key=_psnr)
            worst = heapq.nsmallest(PICTURES, [*worst, shown], key=_psnr)
            bar.update()
    if not rows:
        raise UserError("nothing to score: the data set holds no image pairs")
    names, in_order = zip(*(rows[index] for index in sorted(rows)), strict=True)
    scores = Scores.of_rows(names, in_order, task.protocol)
    write_json(folder / "scores.json", scores_document(scores), ensure_ascii=False)
    write_rows(folder / "scores.csv", scores_rows(scores))
    write_png(folder / "worst.png", sheet(worst))
    write_png(folder / "best.png", sheet(best))
    if can_draw_histogram():
        write_histogram(folder / "histogram.png", scores, task.name)
    return scores


def _psnr(shown: Shown) -> float:
    return shown.scores["psnr"]
