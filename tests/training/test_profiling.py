"""--profile: the trace that is written, and the training that does not change by it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from reference.toy_training import RandomPairs, options_of, small_config

from drsformer_jax.errors import UserError
from drsformer_jax.training.loop import train
from drsformer_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("toy_network")


def run(workdir: Path, profile_steps: int, **changes: Any) -> TrainState:
    config = small_config(**changes)
    options = options_of(config)
    return train(config.to_dict(), options, RandomPairs(), workdir, profile_steps=profile_steps)


def traced_steps(workdir: Path) -> list[int]:
    """The steps in the trace that Perfetto opens."""
    (path,) = workdir.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train")


def assert_identical(one: TrainState, other: TrainState) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_whole_steps_are_traced_and_training_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run(tmp_path / "plain", 0)
    assert not (tmp_path / "plain" / "profile").exists()
    traced = run(tmp_path / "traced", 2)
    assert_identical(plain, traced)
    assert traced_steps(tmp_path / "traced") == [3, 4]
    assert list((tmp_path / "traced").glob("profile/plugins/profile/*/*.xplane.pb"))
    told = capsys.readouterr().out
    assert "steps 3 to 4 traced" in told
    assert "tensorboard --logdir" in told


def test_a_resumed_run_is_traced_after_its_own_warm_up(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 0)
    run(tmp_path / "parts", 0, total_steps=2)
    assert_identical(whole, run(tmp_path / "parts", 1))
    assert traced_steps(tmp_path / "parts") == [5]


def test_the_end_of_the_run_ends_the_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "long", 100)
    assert traced_steps(tmp_path / "long") == [3, 4, 5, 6]
    assert "steps 3 to 6 traced" in capsys.readouterr().out
    run(tmp_path / "short", 5, total_steps=1)
    assert "nothing traced" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    with pytest.raises(UserError, match=r"--profile: .*profile: File exists"):
        run(tmp_path, 1)
