"""Workdirs as runs of the authors' program: the round trip, and each program carries on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.toy_training import options_of, small_config

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.basicsr import SMALLEST, AuthorsRun, assert_equal, saved_run  # noqa: E402

from drsformer_jax.basicsr.workdir_export import export_run  # noqa: E402
from drsformer_jax.basicsr.workdir_import import import_run  # noqa: E402
from drsformer_jax.checkpoints.names import from_tree  # noqa: E402
from drsformer_jax.checkpoints.runs import TrainingCheckpoints  # noqa: E402
from drsformer_jax.errors import UserError  # noqa: E402
from drsformer_jax.parity.random_weights import random_weights  # noqa: E402
from drsformer_jax.training.optimizer import make_optimizer  # noqa: E402
from drsformer_jax.training.state import TrainState  # noqa: E402


def theirs(**changes: Any) -> dict[str, Any]:
    """A configuration with the settings of `AuthorsRun`, as it is saved with a checkpoint."""
    config = small_config(
        optimizer__learning_rate=3e-4,
        optimizer__hold_steps=4,
        optimizer__decay_steps=8,
        **changes,
    )
    architecture = options_of(config).model.architecture()
    return {**config.to_dict(), "architecture": architecture}


def save(state: TrainState, config: dict[str, Any], workdir: Path) -> None:
    checkpoints = TrainingCheckpoints(workdir, keep=3)
    checkpoints.save(state, {"next_step": int(state.step)}, config)
    checkpoints.close()


def first_state(workdir: Path, **changes: Any) -> TrainState:
    """A run of ours after one step; it is saved."""
    config = theirs(**changes)
    params = random_weights(SMALLEST, 0).params
    shapes = jax.eval_shape(make_optimizer(options_of(small_config()).optimizer).init, params)
    opt_state = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    state = TrainState(jnp.int32(1), params, opt_state, params if config["ema_decay"] else None)
    save(state, config, workdir)
    return state


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def old_steps(run: AuthorsRun) -> None:
    for entry in run.optimizer.state.values():
        entry["step"] = 3


def counted_otherwise(run: AuthorsRun) -> None:
    for entry in run.optimizer.state.values():
        entry["step"] = torch.tensor(7.0)


def another_schedule(run: AuthorsRun) -> None:
    run.schedule = torch.optim.lr_scheduler.MultiStepLR(run.optimizer, [1, 5])  # type: ignore[assignment]
    run.schedule.last_epoch = 2


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, None),
        ({"ema_decay": 0.9}, old_steps),
        ({"config": dataclasses.replace(SMALLEST, use_mefc=True)}, counted_otherwise),
        ({"betas": (0.8, 0.95), "weight_decay": 0.0, "eps": 1e-7}, another_schedule),
    ],
    ids=["plain", "ema-old-steps", "mefc-other-count", "other-settings"],
)
def test_there_and_back_is_the_same_to_the_bit(
    tmp_path: Path, options: dict[str, Any], change: Any
) -> None:
    run = AuthorsRun(**options)
    for _ in range(3):
        run.step()
    if change:
        change(run)
    path = run.save(tmp_path)
    import_run(path, None, tmp_path / "run", force=False)
    for name in ("training_states", "models"):
        (tmp_path / "back" / name).mkdir(parents=True)
    back = tmp_path / "back" / "training_states" / "3.state"
    done = export_run(tmp_path / "run", back, None, force=False)
    assert (done.step, done.notes) == (3, [])
    assert_equal(load(back), load(path))
    name = "models/net_g_3.pth"
    assert_equal(load(tmp_path / "back" / name), load(tmp_path / name))


def test_either_program_carries_on_the_run_of_the_other(tmp_path: Path) -> None:
    """Three iterations there, one here, one there: the numbers of a run that never moved."""
    authors = AuthorsRun()
    for _ in range(3):
        authors.step()
    import_run(authors.save(tmp_path), None, tmp_path / "imported", force=False)
    options = options_of(small_config()).optimizer
    options = dataclasses.replace(options, learning_rate=3e-4, hold_steps=4, decay_steps=8)
    optimizer = make_optimizer(options)
    params = random_weights(SMALLEST, 1).params
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        TrainState(jnp.int32(0), params, jax.eval_shape(optimizer.init, params)),
    )
    checkpoints = TrainingCheckpoints(tmp_path / "imported", keep=1)
    state, data = checkpoints.restore(like, 3)
    checkpoints.close()
    assert data == {"next_step": 3}

    @jax.jit
    def step(state: TrainState, gradients: Any) -> TrainState:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state)

    # From step 5 on the rate falls by a tenth a step: one step off would show.
    for seed in (1, 2, 3):
        gradients = random_weights(SMALLEST, seed).params
        state = step(state, gradients)
        authors.step(from_tree(gradients, SMALLEST))
    for name, array in from_tree(state.params, SMALLEST).items():
        np.testing.assert_allclose(array, authors.parameters()[name], rtol=3e-7, atol=1e-7)

    save(state, theirs(), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "6.state", tmp_path / "net.pth", force=False)
    assert_equal(load(tmp_path / "6.state").keys(), authors.content().keys())
    resumed = AuthorsRun()
    resumed.load(tmp_path / "6.state", tmp_path / "net.pth")
    assert resumed.schedule.last_epoch == authors.schedule.last_epoch == 5
    gradients = random_weights(SMALLEST, 4).params
    before = from_tree(state.params, SMALLEST)
    state = step(state, gradients)
    expected = from_tree(state.params, SMALLEST)
    resumed.step(from_tree(gradients, SMALLEST))
    for name, array in resumed.parameters().items():
        # The rate is some 2e-4: a moment or a counter that is lost would move it by that much.
        np.testing.assert_allclose(array, expected[name], rtol=3e-7, atol=1e-7)
        assert not np.array_equal(array, before[name])


def test_what_our_run_writes_is_what_their_program_would_have(tmp_path: Path) -> None:
    first_state(tmp_path / "run", ema_decay=0.5)
    done = export_run(tmp_path / "run", tmp_path / "a.state", None, force=False)
    (note,) = done.notes
    assert "epoch is 0" in note
    assert "gradient clipping 0.01, warm-up 0, moving average 0.5, batch 4, patch 8" in note
    run = AuthorsRun(ema_decay=0.5)
    run.step()
    written, expected = load(tmp_path / "a.state"), run.content()
    assert written["epoch"] == 0
    assert written["iter"] == 1
    assert_equal(
        written["optimizers"][0]["param_groups"], expected["optimizers"][0]["param_groups"]
    )
    mine, other = written["schedulers"][0], expected["schedulers"][0]
    assert_equal(mine, {key: other[key] for key in mine})
    shapes = [
        {number: (e["exp_avg"].shape, e["step"].dtype) for number, e in state["state"].items()}
        for state in (written["optimizers"][0], expected["optimizers"][0])
    ]
    assert shapes[0] == shapes[1]
    run.load(tmp_path / "a.state", tmp_path / "net_g_1.pth")


def test_a_step_of_a_workdir(tmp_path: Path) -> None:
    state = first_state(tmp_path / "run")
    save(dataclasses.replace(state, step=jnp.int32(2)), theirs(), tmp_path / "run")
    older = tmp_path / "run" / "checkpoints" / "1"
    with pytest.raises(UserError, match=r"of step 2: name it 2\.state, or .* checkpoints/1$"):
        export_run(tmp_path / "run", tmp_path / "1.state", None, force=False)
    assert export_run(older, tmp_path / "1.state", None, force=False).step == 1
    assert (tmp_path / "net_g_1.pth").is_file()


def test_both_files_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_state(tmp_path / "run")
    there = tmp_path / "net_g_1.pth"
    there.write_text("old")
    with pytest.raises(UserError, match=r"net_g_1\.pth exists: .* --force"):
        export_run(tmp_path / "run", tmp_path / "1.state", None, force=False)
    before = {path.name for path in tmp_path.iterdir()}
    real, calls = torch.save, []

    def fail_at_the_second(content: Any, path: Path) -> None:
        calls.append(path)
        real(content, path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail_at_the_second)
    with pytest.raises(UserError, match=r"cannot be written: No space left on device"):
        export_run(tmp_path / "run", tmp_path / "1.state", None, force=True)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert there.read_text() == "old"


def test_sources_that_are_no_run(tmp_path: Path) -> None:
    path = saved_run(tmp_path, 1)
    for source in (tmp_path, path, tmp_path / "nothing", tmp_path / "run" / "checkpoints" / "9"):
        with pytest.raises(UserError, match=r"only a training workdir .* becomes a \.state file"):
            export_run(source, tmp_path / "out.state", None, force=False)
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"new has no checkpoint yet"):
        export_run(tmp_path / "new", tmp_path / "out.state", None, force=False)
    assert not (tmp_path / "out.state").exists()


def test_damaged_and_spoilt_checkpoints(tmp_path: Path) -> None:
    state = first_state(tmp_path / "run")
    spoilt = jax.tree.map(lambda leaf: leaf * np.nan, state.params)
    save(dataclasses.replace(state, step=jnp.int32(2), params=spoilt), theirs(), tmp_path / "run")
    with pytest.raises(UserError, match=r"\(params\) has NaN or infinite values"):
        export_run(tmp_path / "run", tmp_path / "2.state", None, force=False)
    older = tmp_path / "run" / "checkpoints" / "1"
    for file in (older / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoints/1 is damaged or incomplete") as error:
        export_run(older, tmp_path / "1.state", None, force=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "1.state").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_the_configuration_of_a_checkpoint_must_say(tmp_path: Path) -> None:
    whole = {"file": "1.state", "ema": False, "step_type": "int", "group": {}, "rest": {}}
    first_state(tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "1"
    file = step / "config" / "metadata"
    saved = json.loads(file.read_text())
    for change in (
        {"imported": {}},
        {"imported": whole | {"step_type": "str"}},
        {"imported": whole | {"group": {"__items__": 5}}},
        {"imported": whole | {"rest": {"__tuple__": [1]}}},
        {"optimizer": 5},
        {"ema_decay": "much"},
        {"optimizer": {"clip_norm": 0.1}},
    ):
        file.write_text(json.dumps({**saved, **change}))
        with pytest.raises(UserError, match=rf"{step} is damaged") as error:
            export_run(step, tmp_path / "1.state", None, force=False)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "1.state").exists()


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    first_state(tmp_path / "run")
    with pytest.raises(UserError, match="there is no folder"):
        export_run(tmp_path / "run", tmp_path / "no" / "1.state", None, force=False)
    (tmp_path / "1.state").mkdir()
    with pytest.raises(UserError, match=r"1\.state is a folder"):
        export_run(tmp_path / "run", tmp_path / "1.state", None, force=True)


def test_a_run_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    first_state(tmp_path / "run", optimizer__name="muon")
    with pytest.raises(UserError, match=r"trained by muon, and a \.state file holds .* AdamW"):
        export_run(tmp_path / "run", tmp_path / "1.state", None, force=False)
    assert not (tmp_path / "1.state").exists()
