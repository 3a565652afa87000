"""Scores during training, as the authors' program prints them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import jax
import numpy as np

from drsformer_jax.data.sources import PairSource
from drsformer_jax.errors import UserError
from drsformer_jax.inference.batches import BatchDerainer, Restored, restore_grouped
from drsformer_jax.inference.restorer import Restorer
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params
from drsformer_jax.processes import gather_documents, own_share, together
from drsformer_jax.scores.metrics import score_restored
from drsformer_jax.training.loop import Attempt
from drsformer_jax.training.reporting import Validation

PROTOCOL = "basicsr"
FIELDS = ("psnr", "input_psnr")
PICTURES = 3  # that the first process shows of its images


class Validator:
    """Restores whole validation images, padded and rounded as in the authors' test program.

    Called with parameters, it gives their score by protocol "basicsr". Every process restores its
    share of the images, one at a time on each of its devices, and all of them get the scores of
    all images, each counted once. The network is compiled once for each image size, however often
    the validator is called.
    """

    def __init__(self, config: DRSformerConfig, source: PairSource) -> None:
        self.config, self.source = config, source
        self._derainer: Restorer | None = None
        self._batches: BatchDerainer | None = None

    def __call__(self, params: Params, attempt: Attempt) -> Validation | None:
        if not len(self.source):
            raise UserError("nothing to score: the data set holds no image pairs")
        with together():
            own = attempt(lambda: self._own_scores(params))
        parts = gather_documents(own and own[0])
        if own is None or None in parts:
            return None
        scores = list(itertools.chain.from_iterable(parts))
        psnr, rainy = (math.fsum(column) / len(column) for column in zip(*scores, strict=True))
        return Validation(
            scores={"psnr": psnr, "input_psnr": rainy},
            summary=(
                f"validation: {psnr:.2f} dB over {len(scores)} images, "
                f"{psnr - rainy:+.2f} dB against the rainy ones ({PROTOCOL})"
            ),
            pictures=own[1],
            rainy=own[2],
        )

    def _own_scores(
        self, params: Params
    ) -> tuple[list[list[float]], dict[str, np.ndarray], np.ndarray | None]:
        """FIELDS of this process's images; of the first process's first ones pictures, and the
        first of all alone.
        """
        scores: list[list[float]] = []
        pictures: dict[str, np.ndarray] = {}
        rainy = None
        for restored in self._restore(params):
            pair = restored.pair
            found = score_restored(pair, restored.image, PROTOCOL)
            scores.append([found[field] for field in FIELDS])
            number, process = divmod(restored.index, jax.process_count())
            if process == 0 and number < PICTURES:
                # Rainy, restored, target side by side; uint8 H 3W 3.
                sides = [pair["input"], restored.image, pair["target"]]
                name = f"rainy_restored_target{f'_{number + 1}' if number else ''}"
                pictures[name] = np.concatenate(sides, axis=1)
                rainy = rainy if number else pair["input"]
        return scores, pictures, rainy

    def _restore(self, params: Params) -> Iterator[Restored]:
        """This process's images; those of one size together, as many as there are devices."""
        if self._derainer is None:
            self._derainer = Restorer(self.config, params, devices=jax.local_device_count())
            if jax.local_device_count() > 1:
                self._batches = BatchDerainer(self.config, params)
        derain = self._derainer.with_params(params)
        batches = self._batches.with_params(params) if self._batches else None
        own = ((index, self.source[index]) for index in own_share(self.source))
        return restore_grouped(derain, batches, own)
