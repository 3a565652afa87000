"""The benchmarks' plots."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer_jax.errors import missing_extra
from drsformer_jax.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One colour a program in all plots, of a palette that the colour-blind can tell apart.
COLOURS = {
    "ours": "#0072B2",
    "ours, tiles": "#56B4E9",
    "eager": "#D55E00",
    "channels_last": "#E69F00",
    "compile": "#CC79A7",
    "compile_channels_last": "#882255",
    "PyTorch DataLoader, PNG": "#D55E00",
    "PNG": "#0072B2",
    "ArrayRecord of PNG": "#56B4E9",
    "ArrayRecord of samples": "#E69F00",
    "kept in memory": "#009E73",
}
LABELS = {
    "ours": "drsformer_jax",
    "ours, tiles": "drsformer_jax, tiles",
    "eager": "PyTorch",
    "channels_last": "PyTorch, channels_last",
    "compile": "PyTorch, compiled",
    "compile_channels_last": "PyTorch, compiled, channels_last",
}


def check_plotting() -> None:
    """Raises the UserError, before the work, where the plot could not be drawn after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "demo", "a benchmark's plot")


def axes(count: int, title: str) -> tuple[Any, Sequence[Axes]]:
    """A figure with `count` axes side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, found = pyplot.subplots(
        1, count, figsize=(6.4 * count, 4.2), layout="constrained", squeeze=False
    )
    figure.suptitle(title)
    return figure, found[0]


def save(figure: Any, json: Path) -> None:
    """Writes the plot beside the file of figures, as .png."""
    with atomic_path(json.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=120)


def bars(
    axis: Axes,
    values: dict[str, float],
    label: str,
    spread: dict[str, tuple[float, float]] | None = None,
) -> None:
    """One horizontal bar a program, with its value; `spread`: lowest and highest, as a line."""
    spread = spread or {}
    names = list(values)[::-1]
    colours = [COLOURS.get(name, "#666666") for name in names]
    drawn = axis.barh([LABELS.get(n, n) for n in names], [values[n] for n in names], color=colours)
    for row, name in enumerate(names):
        if name in spread:
            axis.plot(spread[name], (row - 0.3, row - 0.3), color="black", linewidth=1.5)
    axis.bar_label(drawn, fmt="%.3g", padding=4)
    axis.margins(x=0.15)
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)


def times(
    axis: Axes, values: dict[str, float], spread: dict[str, tuple[float, float]], floor: float
) -> None:
    """Bars of seconds, and `floor`, the seconds at the rate of a matrix product."""
    bars(axis, values, "seconds", spread)
    axis.axvline(floor, color="black", linestyle=":")
    axis.annotate(
        "dotted: at the rate of a matrix product; short lines: lowest to highest",
        (0, 1.01),
        xycoords="axes fraction",
        fontsize="small",
    )


def curves(axis: Axes, series: dict[str, list[tuple[float, float]]], **labels: str) -> None:
    """One line a program through its (x, y) points; y, where linear, begins at 0.

    Args:
      labels: of `Axes.set`: xlabel, ylabel, title, yscale.
    """
    for name, points in series.items():
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axis.plot(x, y, "o-", color=COLOURS.get(name), label=LABELS.get(name, name))
    axis.set(**labels)
    if axis.get_yscale() == "linear":
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)


def powers_of_two(axis: Axes, ticks: Iterable[float]) -> None:
    """A logarithmic x axis with these ticks."""
    from matplotlib.ticker import NullFormatter

    values = sorted(set(ticks))
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.xaxis.set_minor_formatter(NullFormatter())
