"""The score of a data set: the mean of its images' scores.

Identical images have an infinite PSNR, and so has, then, the mean: `DatasetScore.mean` leaves no
image out. So that the rest is not lost, `DatasetScore.finite_mean_psnr` is the mean over the
images with a finite PSNR, and `DatasetScore.identical` names the others; every report that shows
the one shows the other two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drsformer_jax.data.images import read_rgb
from drsformer_jax.errors import UserError, enumerated, out_of_memory
from drsformer_jax.evaluation.pairing import FilePair, pair_folders
from drsformer_jax.inference.batches import Restored
from drsformer_jax.scores.metrics import psnr, ssim
from drsformer_jax.scores.protocols import get_protocol
from drsformer_jax.scores.statistics import Interval, mean_interval


@dataclass(frozen=True)
class ImageScore:
    """One image's score, or the mean of many.

    Attributes:
        name: file name without suffix; 'mean' for a mean.
        psnr: dB, of the restored image against its target; math.inf if they are identical.
        ssim: None where the protocol has none.
        input_psnr: dB, of the rainy image against the target; None if there is no rainy image.
        input_ssim: None where the protocol has none, or if there is no rainy image.
        seconds: wall-clock time of the restoration; None if the file was only scored. The first
            image of each size usually includes compilation.
    """

    name: str
    psnr: float
    ssim: float | None = None
    input_psnr: float | None = None
    input_ssim: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class DatasetScore:
    """The scores of a data set's images by one protocol; never empty."""

    protocol: str
    images: tuple[ImageScore, ...]

    def __post_init__(self) -> None:
        get_protocol(self.protocol)
        if not self.images:
            raise ValueError("a data set's score needs at least one image")

    @property
    def mean(self) -> ImageScore:
        """Mean over all images, so its PSNR is infinite as soon as one image's is."""
        return ImageScore(
            name="mean",
            psnr=_mean([image.psnr for image in self.images]),
            ssim=_optional_mean([image.ssim for image in self.images]),
            input_psnr=_optional_mean([image.input_psnr for image in self.images]),
            input_ssim=_optional_mean([image.input_ssim for image in self.images]),
            seconds=_optional_mean([image.seconds for image in self.images]),
        )

    @property
    def identical(self) -> tuple[str, ...]:
        """Names of the images whose luminance does not differ from the target's: infinite PSNR."""
        return tuple(image.name for image in self.images if math.isinf(image.psnr))

    @property
    def finite_mean_psnr(self) -> float | None:
        """Mean PSNR in dB over the images not in `identical`; None if all are in it."""
        finite = [image.psnr for image in self.images if math.isfinite(image.psnr)]
        return _mean(finite) if finite else None

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """Confidence intervals of the mean 'psnr' and, where the protocol has it, 'ssim'.

        See `statistics.mean_interval`: None below its `MIN_IMAGES`, and where the mean is infinite.
        """
        columns = {
            "psnr": [image.psnr for image in self.images],
            "ssim": [image.ssim for image in self.images if image.ssim is not None],
        }
        return {
            field: mean_interval(np.array(column)) for field, column in columns.items() if column
        }


def evaluate(
    restorations: Iterable[Restored],
    protocol: str,
    *,
    on_image: Callable[[ImageScore, Restored], None] | None = None,
) -> DatasetScore:
    """Scores restored images, and the rainy ones, by a protocol.

    Args:
        restorations: in any order; the scores are in that of their numbers.
        protocol: 'rain200', 'did_ddn' or 'basicsr'.
        on_image: called after each image with its score and what was scored.

    Raises:
        UserError: there are none; or a pair cannot be scored (sizes differ, or too small for
            the protocol), named.
        ValueError: unknown protocol, or a restored image is not like its target.
    """
    get_protocol(protocol)
    scores: dict[int, ImageScore] = {}
    for restored in restorations:
        score = score_restored(restored.pair, restored.image, protocol, restored.seconds)
        scores[restored.index] = score
        if on_image is not None:
            on_image(score, restored)
    if not scores:
        raise UserError("nothing to score: the data set holds no image pairs")
    return DatasetScore(protocol, tuple(scores[index] for index in sorted(scores)))


def score_restored(
    pair: Mapping[str, Any], restored: np.ndarray, protocol: str, seconds: float | None = None
) -> ImageScore:
    """The score of one restored image and of the rainy one; `seconds` is noted in it.

    Raises:
        UserError: the pair cannot be scored.
        ValueError: unknown protocol, or `restored` is not like the target.
    """
    name, rainy, target = str(pair["name"]), pair["input"], pair["target"]
    try:
        input_psnr, input_ssim = psnr(rainy, target, protocol), ssim(rainy, target, protocol)
    except ValueError as error:
        raise UserError(f"{name}: the rainy image cannot be scored: {error}") from error
    try:
        restored_psnr = psnr(restored, target, protocol)
        restored_ssim = ssim(restored, target, protocol)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return ImageScore(name, restored_psnr, restored_ssim, input_psnr, input_ssim, seconds)


def score_folders(
    results: str | os.PathLike[str],
    targets: str | os.PathLike[str],
    protocol: str,
    *,
    on_image: Callable[[ImageScore], None] | None = None,
) -> DatasetScore:
    """Scores the images of one folder against those of the same name in another.

    Raises UserError as `pair_folders` and `score_pairs` do.
    """
    return score_pairs(pair_folders(results, targets), protocol, on_image=on_image)


def score_pairs(
    pairs: Sequence[FilePair],
    protocol: str,
    *,
    on_image: Callable[[ImageScore], None] | None = None,
) -> DatasetScore:
    """Scores pairs of image files by a protocol.

    Args:
        pairs: at least one.
        protocol: 'rain200', 'did_ddn' or 'basicsr'.
        on_image: called after each image with its score, for progress.

    Raises:
        UserError: files cannot be decoded, differ in size from their target, are too small, or too
            large for the memory; the
            message names them.
        ValueError: unknown protocol, or no pairs.
    """
    get_protocol(protocol)
    scores: list[ImageScore] = []
    faults: list[str] = []
    for pair in pairs:
        try:
            result, target = read_rgb(pair.result), read_rgb(pair.target)
            score = ImageScore(
                pair.name, psnr(result, target, protocol), ssim(result, target, protocol)
            )
        except UserError as error:
            faults.append(str(error))
        except ValueError as error:
            faults.append(f"{pair.result}: {error}")
        except MemoryError as error:
            faults.append(f"{pair.result}: {out_of_memory(error)}")
        else:
            scores.append(score)
            if on_image is not None:
                on_image(score)
    if faults:
        count = f"{len(faults)} of {len(pairs)} images cannot be scored: " if len(pairs) > 1 else ""
        raise UserError(count + enumerated(faults))
    return DatasetScore(protocol, tuple(scores))


def _mean(values: Sequence[float]) -> float:
    return math.inf if math.inf in values else math.fsum(values) / len(values)


def _optional_mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None unless every image has the value."""
    present = [value for value in values if value is not None]
    return _mean(present) if len(present) == len(values) else None
