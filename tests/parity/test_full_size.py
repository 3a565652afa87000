"""The paper's two networks at full size against PyTorch; many minutes long, so run by hand.

pytest -m slow -rP tests/parity/test_full_size.py     (-rP prints the verdicts)
"""

from __future__ import annotations

import numpy as np
import pytest

from drsformer_jax.models.config import PRESETS
from drsformer_jax.parity.comparison import TOLERANCES
from drsformer_jax.parity.images import built_in_image
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.parity.run import compare_with_pytorch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("preset", ["drsformer", "drsformer_no_mefc"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients(preset: str, dtype: str) -> None:
    report = compare_with_pytorch(
        random_weights(PRESETS[preset], 0),
        built_in_image(),
        dtype=dtype,
        tolerance=TOLERANCES[dtype],
        gradients=True,
    )
    print(preset, dtype, report.verdict())
    assert report.passed, report.text()


@pytest.mark.parametrize("preset", ["drsformer", "drsformer_no_mefc"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_of_an_image_that_is_not_square(preset: str, dtype: str) -> None:
    report = compare_with_pytorch(
        random_weights(PRESETS[preset], 1),
        np.ascontiguousarray(built_in_image()[:40, :56]),
        dtype=dtype,
        tolerance=TOLERANCES[dtype],
    )
    print(preset, dtype, report.verdict())
    assert report.passed, report.text()
