"""Frames that cannot be restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from reference.films import derain, see, write_film

from drsformer_jax.film.restoring import Outcome


def test_a_frame_that_fails_stays_rainy(tmp_path: Path) -> None:
    source = write_film(tmp_path / "wet.mp4", frames=6)
    number = iter(range(100))

    def dark(image: np.ndarray) -> np.ndarray:
        if next(number) == 3:
            raise MemoryError
        return image // 4

    written, outcome = derain(source, restore=dark)
    assert outcome == Outcome(frames=6, rainy=1, bad_packets=0, is_cut_short=False)
    assert see(written).times == see(source).times
    luma = see(written).planes()[:, 0].mean(axis=(1, 2))
    assert [value > 80 for value in luma] == [False, False, False, True, False, False]
