"""What an evaluation looks like: the best and the worst images with their errors, a histogram."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drsformer_jax.files import atomic_path
from drsformer_jax.paths import printable
from drsformer_jax.scores.per_image import Scores

# Largest difference of a channel that an error map tells apart, of 255: white.
LARGEST_ERROR = 64

_MARGIN, _LINE = 8, 20
_TITLES = ("rainy", "restored", "clean", f"error, black 0 to white {LARGEST_ERROR} of 255")


@dataclasses.dataclass(frozen=True)
class Shown:
    """One image in a sheet: its scores by field, and uint8 `H W 3` rainy, restored and clean."""

    name: str
    scores: Mapping[str, float]
    rainy: np.ndarray
    restored: np.ndarray
    target: np.ndarray


def error_map(restored: np.ndarray, target: np.ndarray) -> np.ndarray:
    """uint8 `H W 3`: the largest difference of the channels as heat, LARGEST_ERROR as white."""
    difference = np.abs(restored.astype(np.int16) - target.astype(np.int16)).max(axis=2)
    heat = np.clip(difference / LARGEST_ERROR, 0, 1)[..., None]
    # Black, red, yellow, white.
    return np.rint(255 * np.clip(3 * heat - np.array([0, 1, 2]), 0, 1)).astype(np.uint8)


def sheet(rows: Sequence[Shown]) -> np.ndarray:
    """uint8 `H W 3`: a row an image, pixel by pixel: rainy, restored, clean, error."""
    cell = max(row.target.shape[1] for row in rows) + _MARGIN
    lefts = [_MARGIN + column * cell for column in range(len(_TITLES))]
    width = _MARGIN + len(_TITLES) * cell
    height = sum(row.target.shape[0] + _LINE + _MARGIN for row in rows) + _LINE + _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for left, title in zip(lefts, _TITLES, strict=True):
        draw.text((left, _MARGIN // 2), title, "black", font)
    top = _LINE + _MARGIN // 2
    for row in rows:
        draw.text((_MARGIN, top + 2), _caption(row.name, row.scores), "black", font)
        top += _LINE
        errors = error_map(row.restored, row.target)
        for left, image in zip(lefts, (row.rainy, row.restored, row.target, errors), strict=True):
            canvas.paste(Image.fromarray(np.ascontiguousarray(image)), (left, top))
        top += row.target.shape[0] + _MARGIN
    return np.asarray(canvas)


def _caption(name: str, scores: Mapping[str, float]) -> str:
    ssim = f", SSIM {scores['ssim']:.4f}" if "ssim" in scores else ""
    rainy = f" (rainy: {scores['input_psnr']:.2f} dB)" if "input_psnr" in scores else ""
    return f"{name}: {scores['psnr']:.2f} dB{ssim}{rainy}"


def can_draw_histogram() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_histogram(path: Path, scores: Scores, title: str) -> None:
    """How many images have a PSNR, restored and rainy, as PNG. OSError if it cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = (scores.columns.get(field, np.empty(0)) for field in ("psnr", "input_psnr"))
    restored, rainy = (column[np.isfinite(column)] for column in columns)
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    ends = (*restored, *rainy) or (0.0,)
    bins = np.linspace(np.floor(min(ends)), np.ceil(max(ends)) + 1e-6, 25).tolist()
    for values, colour, label in ((rainy, "#D55E00", "rainy"), (restored, "#0072B2", "restored")):
        if len(values):
            axes.hist(values, bins, color=colour, alpha=0.65, label=label)
            axes.axvline(float(np.mean(values)), color=colour, linestyle="--")
    axes.set(xlabel=f"PSNR, dB ({scores.protocol}); dashed: means", ylabel="images")
    # Names may have dollar signs, which are no formulas.
    axes.set_title(printable(title), parse_math=False)
    axes.locator_params(axis="y", integer=True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
