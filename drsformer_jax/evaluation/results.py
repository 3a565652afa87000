"""The results table over data sets, as papers print it, beside what the paper reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from drsformer_jax.data.sets import DataSet
from drsformer_jax.scores.per_image import Scores
from drsformer_jax.tables import aligned
from drsformer_jax.tables import markdown as markdown_table

_HEADER = (
    "data set", "images", "protocol", "PSNR dB", "SSIM", "paper", "difference", "rainy", "s/image",
)  # fmt: skip
# Of each image, by the number of its orientations that are averaged.
_PASSES = {
    1: "one pass",
    2: "mean of the image and its mirror image",
    8: "mean of eight flips and rotations",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores of one data set.

    Attributes:
      name: as asked for.
      data_set: which one it is; None: none that is known.
    """

    name: str
    data_set: DataSet | None
    scores: Scores

    @property
    def complete(self) -> bool:
        """Whether it has as many images as the published score is the mean of."""
        return self.data_set is not None and len(self.scores) == self.data_set.pairs["test"]

    @property
    def doubts(self) -> list[str]:
        """Why the published score is not to be compared: other images, or another protocol."""
        data_set, own, count = self.data_set, self.scores.protocol, len(self.scores)
        if data_set is None:
            return []
        found = []
        if not self.complete:
            found.append(
                f"{data_set.title}: {count:,} images, but the test split has "
                f"{data_set.pairs['test']:,}: not to be compared with published scores"
            )
        if own != data_set.protocol:
            found.append(
                f"{data_set.title}: scored by {own}, published scores by {data_set.protocol}: not "
                "to be compared"
            )
        return found

    @property
    def published(self) -> tuple[float, float] | None:
        """PSNR and SSIM that the paper reports for the whole set."""
        return self.data_set.published if self.data_set else None

    @property
    def seconds(self) -> float | None:
        """Median time of an image: compiling, in the first of each size, does not count."""
        seconds = self.scores.columns.get("seconds")
        return None if seconds is None else float(np.median(seconds))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How images were restored.

    Attributes:
      weights: where they are from, in words.
      network: its summary.
      tile: side of tiles in pixels; 0: whole images; None: tiles where memory is short.
      overlap: of tiles, in pixels.
      orientations: flips and rotations of each image that were averaged; 1: itself alone.
      devices: kind and number, in words.
    """

    weights: str
    network: str
    tile: int | None
    overlap: int
    orientations: int
    devices: str

    def text(self) -> str:
        """One line."""
        tiles = "whole images"
        if self.tile:
            tiles = f"tiles of {self.tile} pixels, overlap {self.overlap}"
        flips = _PASSES[self.orientations]
        return f"{self.network}; {self.weights}; {tiles}, {flips}; {self.devices}"


def table(results: Sequence[Result], setting: Setting) -> str:
    """For the terminal."""
    lines = aligned([_HEADER, *map(_row, results)], left=(0, 2))
    return "\n".join([setting.text(), "", *lines, *_notes(results)])


def markdown(results: Sequence[Result], setting: Setting) -> str:
    """The same as a Markdown document."""
    lines = markdown_table([_HEADER, *map(_row, results)])
    return "\n".join([setting.text(), "", *lines, "", *_notes(results)]).rstrip() + "\n"


def document(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """The same as a JSON document, without the images (they have files of their own)."""

    def one(result: Result) -> dict[str, Any]:
        means, published = result.scores.means, result.published
        return {
            "name": result.name,
            "data_set": result.data_set.name if result.data_set else None,
            "images": len(result.scores),
            "complete": result.complete,
            "protocol": result.scores.protocol,
            **{field: means.get(field) for field in ("psnr", "ssim", "input_psnr", "input_ssim")},
            "published": {"psnr": published[0], "ssim": published[1]} if published else None,
            "median_seconds": result.seconds,
        }

    said = dataclasses.asdict(setting)
    orientations, devices = said.pop("orientations"), said.pop("devices")
    said |= {"ensemble": orientations > 1, "devices": devices}
    if orientations > 1:
        said["orientations"] = orientations
    return {"setting": said, "results": [one(result) for result in results]}


def _row(result: Result) -> tuple[str, ...]:
    means, published = result.scores.means, result.published
    paper = difference = "-"
    if published:
        paper = f"{published[0]:.2f} / {published[1]:.4f}"
    if published and not result.doubts and "ssim" in means:
        difference = f"{means['psnr'] - published[0]:+.2f} / {means['ssim'] - published[1]:+.4f}"
    rainy = f"{means['input_psnr']:.2f}" if "input_psnr" in means else "-"
    if "input_ssim" in means:
        rainy += f" / {means['input_ssim']:.4f}"
    return (
        result.data_set.title if result.data_set else result.name,
        f"{len(result.scores):,}",
        str(result.scores.protocol),
        f"{means['psnr']:.2f}",
        f"{means['ssim']:.4f}" if "ssim" in means else "-",
        paper,
        difference,
        rainy,
        "-" if result.seconds is None else f"{result.seconds:.2f}",
    )


def _notes(results: Sequence[Result]) -> list[str]:
    notes = []
    for result in results:
        notes += result.doubts
        for name in result.scores.infinite("psnr"):
            notes.append(f"{result.name}: {name} equals its target: infinite PSNR")
    return notes
