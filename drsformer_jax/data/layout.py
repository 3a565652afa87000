"""Where a data set's rainy and clean images lie, as the sets are passed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drsformer_jax.data.images import holds_images

# Splits and sides by the folder names in use, those of this project first.
SPLITS = {
    "train": ("train", "training", "Train", "Training"),
    "test": ("test", "testing", "val", "Test", "Testing", "test_syn"),
}
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
