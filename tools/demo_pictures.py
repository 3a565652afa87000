"""The demonstration's pictures: before and after, the scores, the training curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from drsformer_jax.files import atomic_path
from drsformer_jax.scores.per_image import Scores
from drsformer_jax.tables import aligned

DOTS_PER_INCH = 100
PANEL_INCHES = 4.0

INK, FAINT, ACCENT = "#222222", "#8a8a8a", "#1f6fb2"
HIGHLIGHT = "#e8f1f9"


@dataclass(frozen=True)
class Panel:
    """One picture of a comparison.

    Attributes:
      title: above it.
      image: uint8 `H W 3`.
      psnr: dB against the target; None for the target itself.
    """

    title: str
    image: np.ndarray
    psnr: float | None


@dataclass(frozen=True)
class ScoreTable:
    """Scores of the same photographs, restored in several ways, by one protocol.

    Attributes:
      protocol: its name.
      columns: by the way of restoring; the same images in each, in the same order.
    """

    protocol: str
    columns: Mapping[str, Scores]

    def psnr(self, column: str, image: str) -> float:
        """PSNR in dB of one image; KeyError if there is no such image."""
        return self._scores()[image][column]["psnr"]

    def header(self) -> list[str]:
        return ["photograph", *self.columns]

    def rows(self) -> list[list[str]]:
        """One row a photograph and their mean; cells of text, as `header`."""
        return [[name, *map(_cell, row.values())] for name, row in self._scores().items()]

    def as_text(self) -> str:
        """The aligned table, without a newline at the end."""
        header = self.header()
        lines = aligned([header, *self.rows()], left=range(len(header)), gap="   ")
        return "\n".join([self.caption(), *lines])

    def as_json(self) -> str:
        """{"protocol": ..., "scores": {photograph: {column: {"psnr": dB, "ssim": ...}}}}.

        An infinite PSNR is the string "inf", as JSON has no infinity.
        """
        scores = {
            name: {
                column: {
                    "psnr": "inf" if math.isinf(own["psnr"]) else own["psnr"],
                    "ssim": own.get("ssim"),
                }
                for column, own in row.items()
            }
            for name, row in self._scores().items()
        }
        return json.dumps({"protocol": self.protocol, "scores": scores}, indent=2)

    def _scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """The scores of each photograph, and of their mean, by column and field."""
        names = [*next(iter(self.columns.values())).names, "mean"]
        return {
            name: {
                column: (scores.rows[i : i + 1] or [scores.means])[0]
                for column, scores in self.columns.items()
            }
            for i, name in enumerate(names)
        }

    def caption(self) -> str:
        return f"PSNR / SSIM of the luminance against the target, protocol {self.protocol}"


def _cell(score: Mapping[str, float]) -> str:
    psnr = "identical" if math.isinf(score["psnr"]) else f"{score['psnr']:.2f} dB"
    return f"{psnr} / {score['ssim']:.4f}" if "ssim" in score else psnr


def draw_before_after(
    path: Path, panels: Sequence[Panel], detail: tuple[slice, slice], protocol: str
) -> None:
    """Draws the panels side by side, and below each of them its `detail` (rows, columns) enlarged.

    All images have the same size.
    """
    height, width = panels[0].image.shape[:2]
    tall = PANEL_INCHES * height / width
    figure = Figure(
        figsize=(len(panels) * (PANEL_INCHES + 0.1), tall + PANEL_INCHES + 0.9),
        dpi=DOTS_PER_INCH,
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0),
    )
    axes = figure.subplots(2, len(panels), height_ratios=[tall, PANEL_INCHES], squeeze=False)
    for column, panel in enumerate(panels):
        whole, enlarged = axes[:, column]
        _show(whole, panel.image)
        _show(enlarged, panel.image[detail])
        whole.add_patch(_outline(detail))
        score = "" if panel.psnr is None else f"   {panel.psnr:.2f} dB"
        whole.set_title(f"{panel.title}{score}", fontsize=17, color=INK, pad=8)
    figure.supxlabel(
        f"PSNR of the luminance against the target, protocol {protocol}; below: the outlined part",
        fontsize=12,
        color=FAINT,
    )
    _save(figure, path)


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="lanczos", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _outline(detail: tuple[slice, slice]) -> Rectangle:
    rows, columns = detail
    return Rectangle(
        (columns.start - 0.5, rows.start - 0.5),
        columns.stop - columns.start,
        rows.stop - rows.start,
        fill=False,
        edgecolor="white",
        linewidth=1.5,
    )


def draw_score_table(path: Path, table: ScoreTable) -> None:
    """Draws the scores; the highest PSNR of each row is bold."""
    header, rows = table.header(), table.rows()
    row_inches, column_inches = 0.42, 2.3
    figure = Figure(
        figsize=(column_inches * len(header), row_inches * (len(rows) + 2.2)), dpi=DOTS_PER_INCH
    )
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set_axis_off()
    axes.set_xlim(0, len(header))
    axes.set_ylim(len(rows) + 1.7, -0.4)
    axes.axhspan(len(rows) - 0.5 + 0.02, len(rows) + 0.5, color=HIGHLIGHT, linewidth=0)
    axes.axhline(0.5, color=INK, linewidth=1)
    columns = list(table.columns.values())
    for y, line in enumerate([header, *rows]):
        best = -1
        if y > 0:
            best = 1 + int(
                np.argmax([[*c.columns["psnr"], c.means["psnr"]][y - 1] for c in columns])
            )
        for x, cell in enumerate(line):
            axes.text(
                0.08 if x == 0 else x + 0.95,
                y,
                cell,
                ha="left" if x == 0 else "right",
                va="center",
                fontsize=13,
                color=FAINT if y == 0 else INK,
                fontweight="bold" if x == best else "normal",
            )
    caption = f"{table.caption()}; bold: the highest PSNR"
    axes.text(0.08, len(rows) + 1.15, caption, va="center", fontsize=11, color=FAINT)
    _save(figure, path)


def draw_training_curve(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Draws loss and validation PSNR against the steps.

    Args:
      records: of metrics.jsonl: training records hold "loss", validation records "psnr" and
        "input_psnr".
    """
    losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
    scores = [(record["step"], record["psnr"]) for record in records if "psnr" in record]
    rainy = [record["input_psnr"] for record in records if "input_psnr" in record]
    figure = Figure(figsize=(11, 4), dpi=DOTS_PER_INCH, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*losses, strict=True), color=ACCENT, linewidth=2)
    _label(left, "training loss", "mean |restored - target|, values in [0, 1]")
    left.set_ylim(bottom=0)
    if scores:
        right.plot(*zip(*scores, strict=True), color=ACCENT, linewidth=2, marker="o")
        step, last = scores[-1]
        right.annotate(
            f"{last:.2f} dB", (step, last), (-6, -16), textcoords="offset points", ha="right"
        )
    if rainy:
        right.axhline(rainy[-1], color=FAINT, linestyle="--", linewidth=1.5)
        right.annotate(
            f"rainy: {rainy[-1]:.2f} dB",
            (0.02, rainy[-1]),
            (0, 6),
            xycoords=right.get_yaxis_transform(),
            textcoords="offset points",
            color=FAINT,
        )
    _label(right, "held-out photographs", "PSNR of Y in dB (protocol basicsr)")
    right.margins(y=0.15)
    _save(figure, path)


def _label(axes: Axes, title: str, values: str) -> None:
    axes.set_title(title, color=INK, fontsize=13)
    axes.set_xlabel("step")
    axes.set_ylabel(values)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor="white")
