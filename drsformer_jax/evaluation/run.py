"""Scores a training run: restored images, table, JSON and CSV under WORKDIR/evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from drsformer_jax.data.images import write_png
from drsformer_jax.data.sources import PairSource
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.dataset import ImageScore, evaluate
from drsformer_jax.evaluation.protocols import get_protocol
from drsformer_jax.evaluation.report import format_table, write_csv, write_json
from drsformer_jax.inference.derainer import Derainer

DIRECTORY = "evaluation"


def evaluate_workdir(workdir: Path, source: PairSource, protocol: str) -> str:
    """Restores every image of a source with a run's newest weights, and scores the results.

    Writes WORKDIR/evaluation/{scores.json, scores.csv, restored/NAME.png}.

    Returns:
      The table of scores, one row an image.

    Raises:
      UserError: no checkpoint in the workdir, an unknown protocol or a pair that cannot be scored.
    """
    try:
        get_protocol(protocol)
    except ValueError as error:
        raise UserError(f"config.eval.protocol: {error}") from error
    derain = Derainer.load(workdir)
    folder = workdir / DIRECTORY
    restored_folder = folder / "restored"
    restored_folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(source), unit="image", leave=False, disable=None) as bar:

        def keep(image: ImageScore, restored: np.ndarray) -> None:
            write_png(restored_folder / f"{image.name}.png", restored)
            bar.update()

        score = evaluate(derain, source, protocol, on_image=keep)
    write_json(folder / "scores.json", score)
    write_csv(folder / "scores.csv", score)
    return f"{format_table(score, per_image=True)}\nwritten to {folder}"
