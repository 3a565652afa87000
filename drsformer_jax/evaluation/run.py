"""Scores a training run: restored images, tables, pictures and files in WORKDIR/evaluation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drsformer_jax.buckets import reached
from drsformer_jax.checkpoints.write_failures import written_or_refused
from drsformer_jax.data.decoding import decode_bytes
from drsformer_jax.data.images import as_rgb, write_png
from drsformer_jax.data.sets import DataSet
from drsformer_jax.data.sources import Pair, PairSource
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.documents import scores_document, scores_rows
from drsformer_jax.evaluation.pictures import Shown, can_draw_histogram, sheet, write_histogram
from drsformer_jax.evaluation.results import Result, Setting, document, markdown, table
from drsformer_jax.evaluation.text import scores_text
from drsformer_jax.files import make_folder, remove_files, write_json, write_rows, write_text
from drsformer_jax.inference.batches import (
    BatchDerainer,
    Restored,
    restore_grouped,
    restore_one_by_one,
)
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.inference.ensemble import derain_averaged
from drsformer_jax.inference.tiles import DEFAULT_OVERLAP, check_tiling
from drsformer_jax.processes import (
    appears,
    check_shared,
    gather_documents,
    is_first,
    own_share,
    together,
)
from drsformer_jax.scores.metrics import score_restored
from drsformer_jax.scores.per_image import Scores
from drsformer_jax.scores.protocols import get_protocol

DIRECTORY = "evaluation"
RESTORED = "restored"  # images, in it or in the folder of their set
# Files of all sets together, in it.
RESULTS = ("results.json", "results.md")
# What there is of one set, which in it is the run's own.
OF_A_SET = (RESTORED, "scores.json", "scores.csv", "worst.png", "best.png", "histogram.png")

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
      orientations: of each image that are restored and averaged (`derain_averaged`); 1: itself.
      per_device: images at a time on a device, all of one size.
    """

    tile: int | None = None
    overlap: int = DEFAULT_OVERLAP
    orientations: int = 1
    per_device: int = 1

    def __post_init__(self) -> None:
        check_tiling(self.tile, self.overlap)
        if not isinstance(self.per_device, int) or self.per_device < 1:
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

    devices = jax.local_device_count()
    is_batched = (devices > 1 or options.per_device > 1) and not (
        options.orientations > 1 or options.tile
    )
    batches = None
    with together():
        derain = Derainer.load(workdir, devices=devices if is_batched else 1)
        if is_batched:
            batches = BatchDerainer(derain.config, derain.params, options.per_device)
    check_shared(workdir)
    results, texts = [], []
    for task in tasks:
        if batches is None:
            restore = _one_by_one(derain, task.source, options)
        else:
            restore = partial(restore_grouped, derain, batches)
        folder = workdir / DIRECTORY / ("" if own else task.name)
        scores = evaluate(task, restore, folder)
        texts.append(f"{task.name}, {scores_text(scores, per_image=True)}\n")
        results.append(Result(task.name, task.data_set, scores))
    setting = Setting(
        weights=f"newest weights of {workdir}",
        network=derain.config.summary(),
        tile=options.tile,
        overlap=options.overlap,
        orientations=options.orientations,
        devices=f"{devices} x {jax.local_devices()[0].device_kind}",
    )
    with together(), written_or_refused(workdir / DIRECTORY):
        if is_first():
            write_json(workdir / DIRECTORY / RESULTS[0], document(results, setting))
            write_text(workdir / DIRECTORY / RESULTS[1], markdown(results, setting))
    note = "" if can_draw_histogram() else " (no histogram: pip install 'drsformer_jax[demo]')"
    texts += [table(results, setting), f"written to {workdir / DIRECTORY}{note}"]
    return "\n".join(texts)


def _one_by_one(derain: Derainer, source: PairSource, options: Options) -> Restorer:
    """The function that restores the numbered pairs of a source, in few programs.

    They are the same in all processes, each of which measures its share of the images.
    """
    with together():
        measured = [(index, *source[index]["input"].shape[:2]) for index in own_share(source)]
    all_measured = sorted(itertools.chain.from_iterable(gather_documents(measured)))
    sizes = [(height, width) for _, height, width in all_measured]
    if options.orientations > 2:
        sizes += [(width, height) for height, width in sizes]
    derain = derain.for_sizes(sizes, tile=options.tile, overlap=options.overlap)
    restore: Callable[..., Any] = derain
    if options.orientations > 1:
        restore = partial(derain_averaged, derain, orientations=options.orientations)
    # In tiles as the authors' program joins them, so that scores stay comparable.
    one = partial(restore, tile=options.tile, overlap=options.overlap, blend="uniform")
    return partial(restore_one_by_one, one)


def evaluate(task: Task, restore: Restorer, folder: Path) -> Scores:
    """Scores a source's images, restored and rainy, and writes all files about them.

    Every process restores, scores and writes its share of the images; the first one writes what is
    about all of them.

    Args:
      restore: gives the restored pairs in any order; the scores are in that of their numbers.

    Raises:
      UserError: there are none; or a pair cannot be scored (sizes differ, or too small for the
        protocol), named.
      ValueError: a restored image is not like its target.
    """
    if not len(task.source):
        raise UserError("nothing to score: the data set holds no image pairs")
    restored_folder = folder / RESTORED
    with together(), written_or_refused(folder):
        if is_first():
            make_folder(restored_folder)
            remove_files(restored_folder, "*.png")
    with together():
        own = list(_scored(task, restore, restored_folder))
    rows = sorted(itertools.chain.from_iterable(gather_documents(own)))
    scores = Scores.of_rows(
        [name for _, name, _ in rows], [row for _, _, row in rows], task.protocol
    )
    with together(), written_or_refused(folder):
        if is_first():
            write_json(folder / "scores.json", scores_document(scores), ensure_ascii=False)
            write_rows(folder / "scores.csv", scores_rows(scores))
            for title, is_best in (("worst", False), ("best", True)):
                ranking = sorted(rows, key=lambda row: row[2]["psnr"], reverse=is_best)
                shown = [_shown(task, restored_folder, *row) for row in ranking[:PICTURES]]
                write_png(folder / f"{title}.png", sheet(shown))
            if can_draw_histogram():
                write_histogram(folder / "histogram.png", scores, task.name)
    return scores


def _scored(
    task: Task, restore: Restorer, folder: Path
) -> Iterator[tuple[int, str, dict[str, float]]]:
    """Number, name and scores of this process's images, each restored and written to a folder."""
    own = own_share(task.source)
    pairs = ((index, task.source[index]) for index in own)
    # disable=None: no bar where stderr is no terminal.
    quiet = None if is_first() else True
    with tqdm(total=len(own), desc=task.name, unit="image", leave=False, disable=quiet) as bar:
        for restored in restore(pairs):
            name = str(restored.pair["name"])
            row = score_restored(restored.pair, restored.image, task.protocol)
            write_png(folder / f"{name}.png", restored.image)
            yield restored.index, name, row | {"seconds": restored.seconds}
            bar.update()


def _shown(task: Task, folder: Path, index: int, name: str, scores: dict[str, float]) -> Shown:
    """An image as it stands on a sheet, which any process may have restored."""
    pair = task.source[index]
    file = folder / f"{name}.png"
    with reached(file):
        if not appears(file):
            raise UserError(f"{file}: is gone, or not to be seen from here: look what removes it")
        restored = as_rgb(decode_bytes(file.read_bytes(), str(file)))
    return Shown(name, scores, pair["input"], restored, pair["target"])
