"""One figure of what the network looks at in a photograph (`evaluation.explanation`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drsformer_jax.evaluation.explanation import LEVELS, Block, Explanation
from drsformer_jax.files import atomic_path
from drsformer_jax.inference.samples import as_unit, quantise
from drsformer_jax.models.mefc import EXPERT_NAMES
from drsformer_jax.paths import printable

# A picture's longer side in the figure, in pixels.
LARGEST_SIDE = 900

# Of entries that 0, 1, 2, 3 and 4 branches keep; and of the branches, in the colours of a line.
_KEPT = ("#f4f4f2", "#fbd38a", "#f08f4f", "#b8405e", "#3b1f57")
_BRANCHES = ("1/2", "2/3", "3/4", "4/5")
_LINES = ("#3b1f57", "#b8405e", "#f08f4f", "#d9a400")
_WIDTH = 14.0


def write_figure(path: Path, title: str, image: np.ndarray, found: Explanation) -> None:
    """Draws it as PNG, PDF or SVG, whatever the name ends in.

    Args:
      image: uint8 H W 3, before.

    Raises OSError if it cannot be written.
    """
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    heights = [float(np.clip(_WIDTH / 3 * height / width, 2.2, 6.5)) + 0.4, 3.1, 3.0]
    heights.append(3.0 if found.gates else 0.3)
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.7), layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.1, h_pad=0.08)
    # Names may have dollar signs, which are no formulas.
    figure.suptitle(printable(title), fontsize=13, parse_math=False)
    rows: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _draw_pictures(rows[0], image, found)
    _draw_masks(rows[1], found.blocks)
    _draw_learned(rows[2], found.blocks)
    if found.gates:
        _draw_gates(rows[3], found.gates)
    else:
        told = "This network has no MEFC, and so no experts to weigh."
        rows[3].text(0.5, 0.5, told, ha="center", va="center", fontsize=10, color="#555")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_pictures(figure: Any, image: np.ndarray, found: Explanation) -> None:
    axes = figure.subplots(1, 3)
    axes[0].imshow(_small(image))
    axes[1].imshow(_small(quantise(found.restored)))
    # The rain is seen where a few reflections are not the scale.
    highest = max(float(np.percentile(found.removed, 99.8)) * 255, 1.0)
    removed = as_unit(_small(quantise(found.removed * 255 / highest))) * highest
    shown = axes[2].imshow(removed, cmap="magma", vmin=0, vmax=highest)
    bar = figure.colorbar(shown, ax=axes[2], shrink=0.9, pad=0.02, extend="max")
    bar.set_label("of 255", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    titles = ("photograph", "restored", f"taken out, mean {found.removed.mean() * 255:.1f} of 255")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()


def _small(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return np.asarray(picture)


def _draw_masks(figure: Any, blocks: Sequence[Block]) -> None:
    """Of each level the last block's first head."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure.suptitle(
        "Top-k masks, first head of each level's last block: which keys (columns) each query (row) "
        "keeps",
        fontsize=11,
    )
    last = {block.level: block for block in blocks}
    for ax, (level, block) in zip(figure.subplots(1, len(LEVELS)), last.items(), strict=True):
        ax.imshow(block.branches[0], cmap=ListedColormap(_KEPT), vmin=0, vmax=4)
        heads, channels = block.branches.shape[:2]
        ax.set_title(_called(level), fontsize=10)
        ax.set_xlabel(
            f"{heads} head{'s' if heads > 1 else ''} of {channels} channels\n"
            f"k = {', '.join(map(str, block.sizes))}",
            fontsize=8,
        )
        ax.set_xticks([])
        ax.set_yticks([])
    shares = np.mean([block.shares(0) for block in blocks], axis=0)
    names = ("none", "k = 4/5 only", "3/4 and 4/5", "2/3, 3/4 and 4/5", "all four")
    patches = [
        Patch(facecolor=colour, edgecolor="#888", label=f"kept by {name}: {share:.0%}")
        for colour, name, share in reversed(list(zip(_KEPT, names, shares, strict=True)))
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=9, frameon=False)


def _draw_learned(figure: Any, blocks: Sequence[Block]) -> None:
    left, right = figure.subplots(1, 2)
    numbers = range(len(blocks))
    weights = np.array([block.branch_weights for block in blocks])
    for branch, (name, colour) in enumerate(zip(_BRANCHES, _LINES, strict=True)):
        # Where two branches keep as many, their lines are one: the later one has gaps.
        form = "o-" if branch < len(_BRANCHES) - 1 else "o:"
        left.plot(numbers, weights[:, branch], form, ms=4, color=colour, label=f"k = {name}")
    left.set_title("learned weights of the branches", fontsize=11)
    left.legend(fontsize=8, frameon=False, ncols=2)
    for number, block in enumerate(blocks):
        heads = len(block.temperatures)
        right.plot([number] * heads, block.temperatures, "o", ms=4, color=_LINES[1], alpha=0.6)
    right.set_title("learned temperatures of the heads", fontsize=11)
    middles = {
        level: np.mean([number for number in numbers if blocks[number].level == level])
        for level in LEVELS
    }
    for ax in (left, right):
        ax.set_xticks(list(middles.values()), [_called(level) for level in middles], fontsize=8)
        for number in numbers[1:]:
            if blocks[number].level != blocks[number - 1].level:
                ax.axvline(number - 0.5, color="#ddd", lw=0.8)
        ax.tick_params(axis="y", labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)


def _draw_gates(figure: Any, gates: dict[str, np.ndarray]) -> None:
    figure.suptitle("Weights of MEFC's experts for this photograph", fontsize=11)
    titles = {"encoder_level0": "before the first level", "refinement": "behind the last level"}
    for ax, (name, gate) in zip(figure.subplots(1, len(gates)), gates.items(), strict=True):
        ax.imshow(gate, cmap="viridis", vmin=0, vmax=max(0.5, float(gate.max())), aspect="auto")
        for (step, expert), weight in np.ndenumerate(gate):
            colour = "white" if weight < 0.3 else "black"
            ax.text(expert, step, f"{weight:.2f}", ha="center", va="center", c=colour, fontsize=8)
        ax.set_title(titles[name], fontsize=10)
        names = [re.sub("_|(?=[1-7]x)", "\n", name) for name in EXPERT_NAMES]
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(gate)), [f"step {step + 1}" for step in range(len(gate))])
        ax.tick_params(labelsize=8, length=0)


def _called(level: str) -> str:
    """encoder_level1 -> encoder 1."""
    return level.replace("_level", " ")
