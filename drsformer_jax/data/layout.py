"""Where a data set's rainy and clean images lie, as the sets are passed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drsformer_jax.data.images import holds_images
from drsformer_jax.errors import UserError

# Splits and sides by the folder names in use, those of this project first.
SPLITS = {
    "train": ("train", "training", "Train", "Training"),
    "test": ("test", "testing", "val", "Test", "Testing", "test_syn"),
}
# A folder that is a split itself.
WHOLE = "all"
INPUTS = ("input", "rainy", "rain/X2", "rain", "rainy_image", "data", "Input", "Rain")
TARGETS = ("target", "norain", "gt", "clean", "ground_truth", "groundtruth", "Target", "GT")


@dataclass(frozen=True)
class Split:
    """One folder of pairs.

    Attributes:
      root: the folder.
      input_dir, target_dir: in it; both None where one file holds both sides of a pair.
    """

    root: Path
    input_dir: str | None
    target_dir: str | None


def find_split(root: Path, *, halves: bool = False) -> Split | None:
    """The two sides of a folder of pairs; None if it holds none.

    Args:
      halves: the clean image is the left half of each file in `root`, the rainy one the right.
    """
    if halves:
        return Split(root, None, None) if holds_images(root) else None
    inputs = next((name for name in INPUTS if (root / name).is_dir()), None)
    targets = next((name for name in TARGETS if (root / name).is_dir()), None)
    return Split(root, inputs, targets) if inputs and targets else None


def find_splits(root: Path, *, halves: bool = False) -> dict[str, Split]:
    """A data set's splits by name: "train", "test"; "all" for a folder that is one itself.

    Raises:
      UserError: the folder is not there or holds no such folders.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            here = find_split(root / name, halves=halves)
            if here is not None:
                found[split] = here
                break
    whole = find_split(root, halves=halves)
    if not found and whole is not None:
        return {WHOLE: whole}
    if not found:
        sides = "images" if halves else f"{INPUTS[0]}/ and {TARGETS[0]}/"
        raise UserError(
            f"{root}: holds no train/ or test/ with {sides} (known names of splits: "
            f"{_named(SPLITS['train'] + SPLITS['test'])}; of sides: {_named(INPUTS)} and "
            f"{_named(TARGETS)})"
        )
    return found


def _named(names: tuple[str, ...]) -> str:
    """Each name once, whatever its letters' case."""
    return ", ".join(dict.fromkeys(name.lower() for name in names))
