"""What the measured programs compute on; the same in every process."""

from __future__ import annotations

import numpy as np

SEED = 0


def rainy_image(batch: int, size: int) -> np.ndarray:
    """float32 `batch size size 3` in [0, 1]."""
    return np.random.default_rng(SEED).random((batch, size, size, 3), np.float32)


def training_pair(batch: int, size: int) -> dict[str, np.ndarray]:
    """{"input", "target"}, each as `rainy_image`: a clean image, and it with noise for rain."""
    clean = rainy_image(batch, size)
    noise = np.random.default_rng(SEED + 1).random(clean.shape, np.float32)
    return {"input": 0.8 * clean + 0.2 * noise, "target": clean}
