"""Differences of two runs, the verdict about them, and how it is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.files import write_json
from drsformer_jax.parity.trajectory_report import (
    FLOAT64,
    FOLLOWING,
    OURS,
    PYTORCH,
    TrainingRecord,
    TrainingReport,
    compare_runs,
    difference,
    table_header,
    table_row,
)


def record(change: float = 0.0, *, loss: float = 0.5, rate: float = 1e-3) -> TrainingRecord:
    """A step of a network of two tensors, one of which is changed."""
    tensors = {"still": np.zeros(3), "moved": np.array([3.0, 4.0 + change])}
    return TrainingRecord(loss, 2.0, rate, tensors)


def run(*changes: float) -> list[TrainingRecord]:
    return [record(change) for change in changes]


def float32_report(theirs: list[float], ours: list[float]) -> TrainingReport:
    zeros = run(*[0.0] * len(theirs))
    runs = {FLOAT64: zeros, PYTORCH: run(*theirs), OURS: run(*ours), FOLLOWING: zeros}
    return TrainingReport({}, "float32", 5.0, list(compare_runs(runs)))


def test_difference_by_its_definition() -> None:
    found = difference(record(0.01, loss=0.6, rate=2e-3), record(), travel=0.5)
    assert found.loss == pytest.approx(0.2)
    assert found.gradient_norm == 0
    assert found.learning_rate == pytest.approx(1.0)
    assert found.max_abs == pytest.approx(0.01)
    assert found.relative_l2 == pytest.approx(0.01 / 5)
    assert found.of_travel == pytest.approx(0.01 / math.sqrt(2) / 0.5)
    assert found.tensor == "moved"


def test_travel_is_the_sum_of_the_rates() -> None:
    steps = list(compare_runs({PYTORCH: run(0, 0), OURS: run(1e-6, 1e-6)}))
    assert steps[0].difference.of_travel == pytest.approx(2 * steps[1].difference.of_travel)


def test_double_precision_names_the_first_step_beyond() -> None:
    steps = list(compare_runs({PYTORCH: run(0, 0, 0), OURS: run(0, 1e-14, 1e-3)}))
    report = TrainingReport({}, "float64", 1e-9, steps)
    assert not report.passed
    first, second = report.failures()
    assert first.startswith("step 3: parameters (L2) off by 2.0e-04")
    assert second.startswith("step 3: parameters (of travel)")
    assert "in moved" in second
    assert report.verdict().splitlines()[-1].startswith("FAIL: step 3")
    assert TrainingReport({}, "float64", 1e-9, steps[:2]).passed


@pytest.mark.parametrize("bad", ["loss", "tensor"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_not_a_number_fails(bad: str, dtype: str, tmp_path: Path) -> None:
    broken = record(math.nan) if bad == "tensor" else record(loss=math.nan)
    runs = {PYTORCH: run(0), OURS: [broken]}
    if dtype == "float32":
        runs = {FLOAT64: run(0), **runs, FOLLOWING: run(0)}
    report = TrainingReport({}, dtype, 5.0, list(compare_runs(runs)))  # type: ignore[arg-type]
    assert not report.passed
    write_json(tmp_path / "report.json", report.to_json())
    assert '"nan"' in (tmp_path / "report.json").read_text()


def test_single_precision_is_judged_by_pytorchs_own_distance() -> None:
    # At which step the runs part is chance, how far they come is not.
    assert float32_report([0, 1e-3], [1e-3, 4e-3]).passed
    report = float32_report([0, 1e-3], [0, 6e-3])
    assert [failure.split(" off")[0] for failure in report.failures()] == [
        "JAX's float32 from float64: parameters (L2)",
        "JAX's float32 from float64: parameters (of travel)",
    ]
    # What rounding alone explains is no failure, were PyTorch ever so lucky.
    assert float32_report([0], [1e-9]).passed


def test_single_precision_compares_the_schedule_by_itself() -> None:
    runs = {
        FLOAT64: run(0),
        PYTORCH: [record(rate=1.2e-3)],
        OURS: [record(rate=1.001e-3)],
        FOLLOWING: run(0),
    }
    report = TrainingReport({}, "float32", 5.0, list(compare_runs(runs)))
    assert ["learning rate" in failure for failure in report.failures()] == [True]


def test_runs_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(compare_runs({PYTORCH: run(0, 0), OURS: run(0)}))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_table_is_aligned(dtype: str) -> None:
    if dtype == "float64":
        steps = list(compare_runs({PYTORCH: run(0), OURS: run(1e-6)}))
    else:
        steps = list(float32_report([1e-6], [2e-6]).steps)
    header = table_header(dtype).splitlines()[-1]  # type: ignore[arg-type]
    row = table_row(steps[0])
    assert row.index("moved") == header.index("farthest tensor")
    assert row.split()[:4] == ["1", "0.50000000", "2.00000000", "1.00000e-03"]


def test_json_is_the_whole_report(tmp_path: Path) -> None:
    report = float32_report([1e-6], [2e-6])
    write_json(tmp_path / "report.json", report.to_json())
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["passed"] is True
    assert document["verdict"].splitlines()[-1].startswith("PASS: 1 steps in float32")
    step = document["steps"][0]
    assert step["pytorch"] == {"loss": 0.5, "gradient_norm": 2.0, "learning_rate": 1e-3}
    assert set(step["from_float64"]) == {PYTORCH, OURS, FOLLOWING}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
