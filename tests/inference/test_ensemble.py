"""Flips and rotations, averaged."""

from __future__ import annotations

import numpy as np
import pytest

from drsformer_jax.data.transforms import dihedral
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.inference.ensemble import derain_averaged, undone
from drsformer_jax.models.config import DRSformerConfig


@pytest.mark.parametrize("flip", range(8))
def test_every_flip_is_turned_back(flip: int) -> None:
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    np.testing.assert_array_equal(undone(dihedral(image, flip), flip), image)


@pytest.mark.parametrize(
    ("orientations", "shapes"), [(2, [(16, 24)]), (8, [(16, 24), (24, 16)])], ids=str
)
def test_mean_over_orientations(orientations: int, shapes: list[tuple[int, int]]) -> None:
    """The network's place is taken by a ramp over its own view: no two flips get the same."""
    seen = []

    def ramp(params: dict, image: np.ndarray) -> np.ndarray:
        seen.append(image.shape[1:3])
        height, width = image.shape[1:3]
        import jax.numpy as jnp

        return image * 0 + jnp.linspace(0, 1, height * width).reshape(1, height, width, 1)

    derain = Derainer(DRSformerConfig(), {}, restore=ramp)
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    found = derain_averaged(derain, image, orientations)
    unit = np.zeros((16, 24, 3))
    for flip in range(orientations):
        shape = dihedral(image, flip).shape[:2]
        whole = np.linspace(0, 1, shape[0] * shape[1]).reshape(*shape, 1) * np.ones(3)
        unit += undone(whole, flip)
    assert np.abs(found.astype(int) - np.rint(unit / orientations * 255).astype(int)).max() <= 1
    assert found.dtype == np.uint8
    # Compiled once for each shape.
    assert sorted(seen) == shapes
