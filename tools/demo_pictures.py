"""The demonstration's pictures: before and after, a table, the training curve."""

from __future__ import annotations

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

DOTS_PER_INCH = 100
PANEL_INCHES = 4.0

INK, FAINT, ACCENT = "#222222", "#8a8a8a", "#1f6fb2"


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
    rows, columns = detail
    corner = (columns.start - 0.5, rows.start - 0.5)
    extent = (columns.stop - columns.start, rows.stop - rows.start)
    axes = figure.subplots(2, len(panels), height_ratios=[tall, PANEL_INCHES], squeeze=False)
    for column, panel in enumerate(panels):
        whole, enlarged = axes[:, column]
        _show(whole, panel.image)
        _show(enlarged, panel.image[detail])
        whole.add_patch(Rectangle(corner, *extent, fill=False, edgecolor="white", linewidth=1.5))
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


def draw_text(path: Path, text: str) -> None:
    """Draws a table as it is printed."""
    lines = text.splitlines()
    size = (0.11 * max(map(len, lines)) + 0.4, 0.22 * len(lines) + 0.4)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH)
    figure.text(0.2 / size[0], 0.5, text, family="monospace", fontsize=11, color=INK, va="center")
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
        last = f"restored: {scores[-1][1]:.2f} dB"
        right.plot(*zip(*scores, strict=True), "o-", color=ACCENT, linewidth=2, label=last)
    if rainy:
        right.axhline(rainy[-1], color=FAINT, linestyle="--", label=f"rainy: {rainy[-1]:.2f} dB")
        right.legend()
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
