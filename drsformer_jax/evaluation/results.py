"""The results table over data sets, as papers print it, beside what the paper reports."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from drsformer_jax.data.sets import DataSet
from drsformer_jax.evaluation.dataset import DatasetScore

_HEADER = (
    "data set", "images", "protocol", "PSNR dB", "SSIM", "paper", "difference", "rainy", "s/image",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one data set.

    Attributes:
      name: as asked for.
      data_set: which one it is; None: none that is known.
    """

    name: str
    data_set: DataSet | None
    score: DatasetScore

    @property
    def complete(self) -> bool:
        """Whether it has as many images as the published score is the mean of."""
        return self.data_set is not None and len(self.score.images) == self.data_set.pairs["test"]

    @property
    def comparable(self) -> bool:
        """Whether the published score is of the same images, by the same protocol."""
        return (
            self.complete
            and self.data_set is not None
            and self.score.protocol == self.data_set.protocol
        )

    @property
    def published(self) -> tuple[float, float] | None:
        """PSNR and SSIM that the paper reports for the whole set."""
        return self.data_set.published if self.data_set else None

    @property
    def seconds(self) -> float | None:
        """Median time of an image: compiling, in the first of each size, does not count."""
        seconds = [image.seconds for image in self.score.images if image.seconds is not None]
        return statistics.median(seconds) if seconds else None


@dataclasses.dataclass(frozen=True)
class Setting:
    """How images were restored.

    Attributes:
      weights: where they are from, in words.
      network: its summary.
      tile: side of tiles in pixels; 0: whole images; None: tiles where memory is short.
      overlap: of tiles, in pixels.
      ensemble: the mean over eight flips and rotations.
      devices: kind and number, in words.
    """

    weights: str
    network: str
    tile: int | None
    overlap: int
    ensemble: bool
    devices: str

    def text(self) -> str:
        """One line."""
        tiles = "whole images"
        if self.tile:
            tiles = f"tiles of {self.tile} pixels, overlap {self.overlap}"
        flips = "mean of eight flips and rotations" if self.ensemble else "one pass"
        return f"{self.network}; {self.weights}; {tiles}, {flips}; {self.devices}"


def table(results: Sequence[Result], setting: Setting) -> str:
    """For the terminal."""
    rows = [_HEADER, *(_row(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([setting.text(), "", *lines, *_notes(results)])


def markdown(results: Sequence[Result], setting: Setting) -> str:
    """The same as a Markdown document."""
    rows = [_HEADER, ("---",) * len(_HEADER), *(_row(result) for result in results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([setting.text(), "", *lines, "", *_notes(results)]).rstrip() + "\n"


def document(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """The same as a JSON document, without the images (they have files of their own)."""

    def one(result: Result) -> dict[str, Any]:
        mean = result.score.mean
        published = result.published
        return {
            "name": result.name,
            "data_set": result.data_set.name if result.data_set else None,
            "images": len(result.score.images),
            "complete": result.complete,
            "protocol": result.score.protocol,
            "psnr": mean.psnr,
            "ssim": mean.ssim,
            "input_psnr": mean.input_psnr,
            "input_ssim": mean.input_ssim,
            "published": {"psnr": published[0], "ssim": published[1]} if published else None,
            "median_seconds": result.seconds,
        }

    return {"setting": dataclasses.asdict(setting), "results": [one(result) for result in results]}


def _row(result: Result) -> tuple[str, ...]:
    mean, published = result.score.mean, result.published
    paper = difference = "-"
    if published:
        paper = f"{published[0]:.2f} / {published[1]:.4f}"
    if published and result.comparable and mean.ssim is not None:
        difference = f"{mean.psnr - published[0]:+.2f} / {mean.ssim - published[1]:+.4f}"
    rainy = "-" if mean.input_psnr is None else f"{mean.input_psnr:.2f}"
    if mean.input_psnr is not None and mean.input_ssim is not None:
        rainy += f" / {mean.input_ssim:.4f}"
    return (
        result.data_set.title if result.data_set else result.name,
        f"{len(result.score.images):,}",
        result.score.protocol,
        f"{mean.psnr:.2f}",
        "-" if mean.ssim is None else f"{mean.ssim:.4f}",
        paper,
        difference,
        rainy,
        "-" if result.seconds is None else f"{result.seconds:.2f}",
    )


def _notes(results: Sequence[Result]) -> list[str]:
    notes = []
    for result in results:
        if result.data_set and not result.complete:
            notes.append(
                f"{result.data_set.title}: {len(result.score.images):,} images, but the test split "
                f"has {result.data_set.pairs['test']:,}: not to be compared with published scores"
            )
        if result.data_set and result.score.protocol != result.data_set.protocol:
            notes.append(
                f"{result.data_set.title}: scored by {result.score.protocol}, published scores by "
                f"{result.data_set.protocol}: not to be compared"
            )
        for name in result.score.identical:
            notes.append(f"{result.name}: {name} equals its target: infinite PSNR")
    return notes
