"""Resuming, saving, reporting and stopping, with a network of a few numbers."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from reference.toy_training import RandomPairs, options_of, small_config

from drsformer_jax.errors import UserError
from drsformer_jax.training.loop import train
from drsformer_jax.training.reporting import Validation
from drsformer_jax.training.state import TrainState
from drsformer_jax.training.stopping import Interrupted
from drsformer_jax.training.workdir import TrainingDivergedError

PATIENCE = 20  # seconds that nothing here may take

pytestmark = pytest.mark.usefixtures("toy_network")


def run(config: ConfigDict, workdir: Path, validate: Any = None, initial: Any = None) -> TrainState:
    options = options_of(config)
    return train(config.to_dict(), options, RandomPairs(), workdir, validate, initial=initial)


def records(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_identical(one: Any, other: Any) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9, "mixup": True},
        {"progressive": ((3, 4, 8), (2, 2, 16)), "accumulation_steps": 2},
        {"optimizer__name": "muon"},
    ],
    ids=["plain", "ema-mixup", "progressive", "muon"],
)
def test_a_resumed_run_is_bit_identical(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = run(small_config(**changes), tmp_path / "whole")
    for total in (2, 5, 6):
        parts = run(small_config(total_steps=total, **changes), tmp_path / "parts")
    assert int(parts.step) == 6
    assert_identical(whole, parts)
    whole_losses = {r["step"]: r["loss"] for r in records(tmp_path / "whole") if r["step"] == 2}
    assert whole_losses == {
        r["step"]: r["loss"] for r in records(tmp_path / "parts") if r["step"] == 2
    }


def halving() -> dict[str, np.ndarray]:
    """Parameters of the toy network that leave nearly nothing to learn."""
    mix, table = np.eye(3) / 2, np.zeros((64, 64))
    return {
        "mix": np.float32(mix),
        "offset": np.zeros(3, np.float32),
        "table": {"kernel": np.float32(table)},
    }


@pytest.mark.parametrize("as_jax", [False, True])
def test_a_new_run_starts_from_given_parameters(tmp_path: Path, as_jax: bool) -> None:
    initial: Any = jax.tree.map(jnp.asarray, halving()) if as_jax else halving()
    config = small_config(
        ema_decay=0.5,
        log_every=1,
        optimizer__learning_rate=1e-30,
        optimizer__final_learning_rate=1e-30,
    )
    final = run(config, tmp_path, initial=initial)
    assert records(tmp_path)[0]["loss"] < 0.005
    for params in (final.params, final.ema_params):
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-20), params, halving())
    # They are the caller's still: the step gives away its own.
    assert_identical(initial, halving())


def test_given_parameters_are_not_used_when_a_run_is_carried_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(small_config(), tmp_path / "whole")
    run(small_config(total_steps=2), tmp_path / "parts")
    assert "are not used" not in capsys.readouterr().out
    other = {"another": np.ones(2)}
    assert_identical(whole, run(small_config(init="w.pth"), tmp_path / "parts", initial=other))
    assert "the parameters to start from are not used" in capsys.readouterr().out


def test_patches_are_varied_as_the_configuration_says(tmp_path: Path) -> None:
    def first_loss(augment: str) -> float:
        run(small_config(total_steps=1, log_every=1, data__augment=augment), tmp_path / augment)
        return records(tmp_path / augment)[0]["loss"]

    assert first_loss("mirror") != first_loss("dihedral")


def test_training_learns_and_reports(tmp_path: Path) -> None:
    config = small_config(total_steps=60, log_every=20, optimizer__hold_steps=60)
    run(config, tmp_path)
    found = records(tmp_path)
    assert [record["step"] for record in found] == [20, 40, 60]
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]
    assert {
        "loss",
        "learning_rate",
        "gradient_norm",
        "output_change",
        "target_change",
        "images_per_second",
    } <= found[0].keys()


def test_checkpoints_are_kept_and_a_finished_run_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(keep_checkpoints=2)
    first = run(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architecture"]["dim"] == 8
    capsys.readouterr()
    assert_identical(first, run(config, tmp_path))
    assert "nothing to do" in capsys.readouterr().out


def test_records_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    run(small_config(total_steps=4), tmp_path)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        # What a drive makes of a file when the power is cut, and what is no record of ours.
        file.write(b'\0\0\xff\n5\n{}\nnull\n[]\n{"step": null}\n')
        file.write(b'{"step": 5, "loss": 99.0}\n{"step": 6, "lo')
    run(small_config(), tmp_path)
    found = records(tmp_path)
    assert [record["step"] for record in found] == [2, 4, 6]
    assert all(record["loss"] < 1 for record in found)


def test_a_workdir_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run(small_config(total_steps=2), tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"global_batch \(4 there, 2 here\), config\.seed \(0"):
        run(small_config(seed=5, global_batch=2), tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_divergence_names_the_step_and_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(small_config(total_steps=2), tmp_path)

    def broken(config: Any, params: Any, image: jax.Array) -> jax.Array:
        del config
        return image * params["offset"] * jnp.nan

    monkeypatch.setattr("drsformer_jax.training.step.restore", broken)
    with pytest.raises(TrainingDivergedError, match=r"step 3 .*loss nan.*checkpoints/2$"):
        run(small_config(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_collapse_to_the_input_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def collapsed(config: Any, params: Any, image: jax.Array) -> jax.Array:
        del config
        return image + 1e-4 * params["offset"].sum()

    monkeypatch.setattr("drsformer_jax.training.step.restore", collapsed)
    run(small_config(total_steps=2), tmp_path)
    assert "collapsed to output = input" in capsys.readouterr().out
    monkeypatch.undo()


def test_a_healthy_run_is_not_called_collapsed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(small_config(total_steps=2), tmp_path)
    assert "collapsed" not in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_saves_and_the_run_goes_on_as_if_never_stopped(
    tmp_path: Path, number: signal.Signals
) -> None:
    whole = run(small_config(), tmp_path / "whole")
    calls = []

    def stop_at_first_validation(params: Any, attempt: Any) -> Validation:
        calls.append(1)
        os.kill(os.getpid(), number)
        return Validation({"psnr": 1.0}, "one", {})

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as stopped:
        run(small_config(), tmp_path / "stopped", stop_at_first_validation)
    assert stopped.value.number == number
    assert calls == [1]
    assert signal.getsignal(number) == handler
    assert (tmp_path / "stopped" / "checkpoints" / "3").is_dir()
    assert_identical(whole, run(small_config(), tmp_path / "stopped"))


def test_a_validation_that_is_left_is_done_after_the_restart(tmp_path: Path) -> None:
    validated: list[str] = []

    def validate(params: Any, attempt: Any) -> Validation | None:
        def work() -> bool:
            if len(validated) == 1 and not stopped:
                stopped.append(1)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(PATIENCE)
            return True

        validated.append("begun")
        return Validation({"psnr": 1.0}, "one", {}) if attempt(work) else None

    stopped: list[int] = []
    began = time.monotonic()
    with pytest.raises(Interrupted):
        run(small_config(), tmp_path, validate)
    assert time.monotonic() - began < PATIENCE
    assert not [r for r in records(tmp_path) if "psnr" in r]
    run(small_config(), tmp_path, validate)
    assert [r["step"] for r in records(tmp_path) if "psnr" in r] == [3, 6]


def test_a_stop_request_during_compilation_is_heard_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_to_trace(config: Any, params: Any, image: jax.Array) -> jax.Array:
        del config
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        return image @ params["mix"]

    run(small_config(total_steps=2), tmp_path)
    monkeypatch.setattr("drsformer_jax.training.step.restore", slow_to_trace)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        run(small_config(), tmp_path)
    assert time.monotonic() - began < PATIENCE
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_the_best_checkpoint_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = iter([20.0, 30.0, 25.0, 10.0])

    def validate(params: Any, attempt: Any) -> Validation:
        return Validation({"psnr": next(scores)}, "", {})

    config = small_config(total_steps=8, eval_every=2, keep_checkpoints=1)
    run(config, tmp_path, validate)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "8"]
    assert "best validation after step 4" in capsys.readouterr().out


def flip_bits(folder: Path) -> None:
    """In each file, for the largest may be an index that merging left behind and nobody reads.

    One in each of up to 17 places: one in 500 bits is padding of zstd's, and changes no value.
    """
    for path in (folder / "state").rglob("d/*"):
        content = bytearray(path.read_bytes())
        for place in range(0, len(content), max(1, len(content) // 16)):
            content[place] ^= 1
        path.write_bytes(content)


def cut_short(folder: Path) -> None:
    for path in (folder / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])


def lose_the_configuration(folder: Path) -> None:
    (folder / "config" / "metadata").unlink()


def lose_what_the_configuration_says(folder: Path) -> None:
    (folder / "config" / "metadata").write_text("[1]")


def lose_where_it_was_imported_from(folder: Path) -> None:
    config = folder / "config" / "metadata"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"imported": 5}))


def hold_other_values(folder: Path) -> None:
    """As if they had changed on the disk in a way that can still be read."""
    data = folder / "data" / "metadata"
    document = json.loads(data.read_text())
    assert len(document["fingerprint"]) == 64
    data.write_text(json.dumps(document | {"fingerprint": "0" * 64}))


@pytest.mark.parametrize(
    "damage",
    [
        hold_other_values,
        flip_bits,
        cut_short,
        lose_the_configuration,
        lose_what_the_configuration_says,
        lose_where_it_was_imported_from,
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_taken(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(small_config(), tmp_path / "whole")
    run(small_config(total_steps=4), tmp_path / "damaged")
    folder = tmp_path / "damaged" / "checkpoints"
    damage(folder / "4")
    capsys.readouterr()
    assert_identical(whole, run(small_config(), tmp_path / "damaged"))
    output = capsys.readouterr().out
    assert f"warning: {folder / '4'} is damaged" in output
    assert "resuming after step 2" in output
    assert (folder / "4.damaged").is_dir()
    # The step has been saved anew.
    assert (folder / "4").is_dir()


@pytest.mark.parametrize("text", ["", "[5]", "{}", '{"score": [20.0]}', '{"score": "20"}'])
def test_a_damaged_score_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "4" / "metrics" / "metrics"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError, match=f"{file} is damaged: remove {file.parent}, and"):
        run(small_config(), tmp_path)


def test_a_file_where_checkpoints_belong_is_named_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match="checkpoints is a file where a folder should be"):
        run(small_config(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(small_config(total_steps=4), tmp_path)
    real = os.open

    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if "checkpoints/4/state" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match=r"checkpoints/4/state/.* may not be read"):
        run(small_config(), tmp_path)
    assert (tmp_path / "checkpoints" / "4").is_dir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_without_a_good_checkpoint_is_not_begun_anew(tmp_path: Path) -> None:
    run(small_config(total_steps=2), tmp_path)
    cut_short(tmp_path / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"no good checkpoint left: .*checkpoints/2 is damaged"):
        run(small_config(), tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_validation_sees_the_moving_average_where_there_is_one(tmp_path: Path) -> None:
    seen = []

    def validate(params: Any, attempt: Any) -> Validation:
        seen.append(jax.device_get(params))
        return Validation({"psnr": 12.5}, "12.5 dB", {})

    state = run(small_config(ema_decay=0.5), tmp_path, validate)
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[-1]["mix"], state.ema_params["mix"])
    assert not np.array_equal(seen[-1]["mix"], state.params["mix"])
    assert [r["psnr"] for r in records(tmp_path) if "psnr" in r] == [12.5, 12.5]
