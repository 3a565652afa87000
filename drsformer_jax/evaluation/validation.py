"""Scores during training, as the authors' program prints them."""

from __future__ import annotations

import numpy as np

from drsformer_jax.data.sources import PairSource
from drsformer_jax.evaluation.dataset import evaluate
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params
from drsformer_jax.training.loop import Validation

PROTOCOL = "basicsr"


class Validator:
    """Restores whole validation images, padded and rounded as in the authors' test program.

    Called with parameters, it gives their score by protocol "basicsr". The network is compiled
    once for each image size, however often it is called.
    """

    def __init__(self, config: DRSformerConfig, source: PairSource) -> None:
        self.config, self.source = config, source
        self._derainer: Derainer | None = None

    def __call__(self, params: Params) -> Validation:
        if self._derainer is None:
            self._derainer = Derainer(self.config, params)
        derain = self._derainer.with_params(params)
        score = evaluate(derain, self.source, PROTOCOL)
        mean = score.mean
        gain = mean.psnr - (mean.input_psnr or 0.0)
        return Validation(
            scores={"psnr": mean.psnr, "input_psnr": mean.input_psnr or 0.0},
            summary=(
                f"validation: {mean.psnr:.2f} dB over {len(score.images)} images, "
                f"{gain:+.2f} dB against the rainy ones ({PROTOCOL})"
            ),
            pictures={"rainy_restored_target": self._picture(derain)},
        )

    def _picture(self, derain: Derainer) -> np.ndarray:
        """The first pair: rainy, restored, target side by side; uint8 H 3W 3."""
        pair = self.source[0]
        return np.concatenate([pair["input"], derain(pair["input"]), pair["target"]], axis=1)
