"""Programs against their floors, with programs that compute next to nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trivial_programs

from benchmarks.comparison import FLOAT32_LIMIT, compare, forward_limit, text
from benchmarks.pairs import relative_difference
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS, DRSformerConfig

SETTINGS = {"config": PRESETS["tiny"], "batch": 1, "size": 16, "device": "cpu"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pairs.PAUSE_SECONDS", 0)
    monkeypatch.setattr("benchmarks.jax_programs.matrix_product", trivial_programs.product)


def compared(result: float, **given: Any) -> dict[str, Any]:
    return compare(
        trivial_programs.restored,
        trivial_programs.pytorchs,
        {**SETTINGS, "result": result},
        variants=["eager"],
        flops=10**9,
        limit=0.1,
        runs=2,
        **given,
    )


def test_a_program_is_told_with_its_floor() -> None:
    result = compared(1.05, exact={"restored": np.array([1.0])})
    ours, eager = (result["programs"][name] for name in ("ours", "eager"))
    assert eager["times_ours"]["median"] == 2
    assert ours["difference"] == pytest.approx(0.05)
    assert result["matrix_product"] == {"size": 1000, "flops_per_second": 5e9}
    assert result["floor_seconds"] == 0.2
    assert ours["times_floor"] == pytest.approx(2.5)
    told = text(result)
    assert "a matrix product of 1000 runs at 5 GFLOP/s: floor 0.2 s" in told
    assert "difference: relative, from PyTorch in float64" in told


def test_without_an_exact_result_the_first_variant_is_what_all_are_held_against() -> None:
    result = compared(1.05)
    assert result["difference_from"] == "eager"
    assert result["programs"]["eager"]["difference"] == 0


def test_another_result_is_not_timed() -> None:
    with pytest.raises(UserError, match="ours disagrees with PyTorch in float64"):
        compared(1.2, exact={"restored": np.array([1.0])})


@pytest.mark.parametrize(
    ("dtype", "precision", "device", "limit"),
    [
        ("float32", "default", "cpu", 1e-2),
        ("float32", "default", "gpu", 0.1),  # TF32
        ("float32", "highest", "gpu", 1e-2),
        ("bfloat16", "highest", "cpu", 0.1),
    ],
)
def test_how_far_a_forward_may_be_from_the_exact_one(
    dtype: str, precision: str, device: str, limit: float
) -> None:
    config = DRSformerConfig(dtype=dtype, precision=precision)
    assert forward_limit(config, device) == limit


def test_single_pixels_may_differ_but_not_an_image() -> None:
    image = np.random.default_rng(0).uniform(size=(1, 64, 64, 3)).astype(np.float32)
    pixel, tinted = image.copy(), image * np.float32(1.05)
    pixel[0, 9, 9] += 0.1
    assert relative_difference({"x": pixel}, {"x": image}) < FLOAT32_LIMIT
    assert relative_difference({"x": tinted}, {"x": image}) > FLOAT32_LIMIT
