"""What both networks are shown."""

from __future__ import annotations

import numpy as np

DEFAULT_SIZE = 64
_WAVES = 12


def built_in_image(channels: int = 3) -> np.ndarray:
    """A picture that needs no file: waves of all directions and some noise.

    Returns:
      float64 `64 64 channels` in [0, 1], the same on every machine to the last few bits.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:DEFAULT_SIZE, :DEFAULT_SIZE] / DEFAULT_SIZE
    image = np.full((DEFAULT_SIZE, DEFAULT_SIZE, channels), 0.5)
    for channel in range(channels):
        for _ in range(_WAVES):
            vertical, horizontal, phase = rng.uniform(-8, 8, 3)
            wave = np.sin(2 * np.pi * (vertical * rows + horizontal * columns) + phase)
            image[..., channel] += 0.05 * wave
    noise = rng.normal(scale=0.02, size=image.shape)
    return np.clip(image + noise, 0, 1)
