from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.errors import UserError

# TensorStore's threads may complain after a read of a damaged file has already failed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: np.asarray(leaf * factor, np.float32), tree)


def train(workdir: Path, weights, steps, ema: bool, spoil: int | None = None) -> None:
    """Writes checkpoints as training does; at `step` the parameters are `step` times ours."""
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        for step in steps:
            params = jax.tree.map(jnp.asarray, scaled(weights.params, step))
            if step == spoil:
                params["output"]["kernel"] = params["output"]["kernel"].at[0, 0, 0, 0].set(jnp.nan)
            state = {
                "step": jnp.int32(step),
                "params": params,
                "opt_state": optax.adamw(1e-3).init(params),
            }
            if ema:
                state["ema_params"] = jax.tree.map(lambda leaf: -leaf, params)
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave({"step": step}),
                    config=ocp.args.JsonSave({"architecture": weights.config.architecture()}),
                ),
            )
        manager.wait_until_finished()


def truncate_tensors(item: Path) -> None:
    files = [p for p in item.rglob("*") if p.is_file() and p.parent.name == "d"]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_checkpoint_round_trip_is_bitwise(tmp_path, weights, assert_same):
    path = tmp_path / "ours"
    save_weights(path, weights)
    loaded = load_weights(path)
    assert loaded.config == weights.config
    assert loaded.metadata == weights.metadata
    assert_same(loaded.params, weights.params)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded.params))
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours"]


def test_saving_again_replaces_a_checkpoint_of_ours(tmp_path, weights, assert_same, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_weights("ours", weights)
    newer = type(weights)(weights.config, scaled(weights.params, 2), {})
    save_weights("ours", newer)
    assert_same(load_weights("ours").params, newer.params)
    assert os.listdir() == ["ours"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, weights, assert_same, monkeypatch):
    path = tmp_path / "ours"
    save_weights(path, weights)

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        save_weights(path, weights)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours"]
    assert_same(load_weights(path).params, weights.params)


@pytest.mark.parametrize("content", ["photo.jpg", None])
def test_a_foreign_folder_is_never_replaced(tmp_path, weights, content):
    path = tmp_path / "pictures"
    path.mkdir()
    if content:
        (path / content).write_bytes(b"x")
    with pytest.raises(UserError, match="not one of our checkpoints"):
        save_weights(path, weights)
    assert [entry.name for entry in path.iterdir()] == ([content] if content else [])


def test_what_users_put_into_a_checkpoint_stays(tmp_path, weights):
    path = tmp_path / "ours"
    save_weights(path, weights)
    (path / "notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"holds more than a checkpoint \(notes\.md\).*move that"):
        save_weights(path, weights)
    assert (path / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("place", ["ours", "run"])
def test_what_may_not_be_read_is_not_called_damaged(tmp_path, weights, monkeypatch, place):
    save_weights(tmp_path / "ours", weights)
    train(tmp_path / "run", weights, (1, 2), ema=False)
    real = os.open

    def refusing(path, *args, **kwargs):
        if str(path).endswith(("ours/config/metadata", "2/config/metadata")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match="config/metadata: may not be read"):
        load_weights(tmp_path / place)


@pytest.mark.parametrize("damage", ["tensors", "json", "no-params", "no-index", "no-field"])
def test_a_damaged_checkpoint_is_a_users_error(tmp_path, weights, damage):
    path = tmp_path / "ours"
    save_weights(path, weights)
    document = path / "config" / "metadata"
    if damage == "tensors":
        truncate_tensors(path / "params")
    elif damage == "json":
        document.write_text("{")
    elif damage == "no-params":
        shutil.rmtree(path / "params")
    elif damage == "no-index":
        (path / "params" / "manifest.ocdbt").unlink()
    else:
        document.write_text(json.dumps({"format": "drsformer"}))
    with pytest.raises(UserError, match="ours") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"num_blocks": [10**9] * 4}}, "more than 1000 in a level"),
        ({"architecture": {"dim": 10**9}}, "cannot be built: 21280000000 channels in a layer"),
        ({"architecture": {"dim": 16}}, r"wrong shape: patch_embed/kernel"),
        ({"architecture": None}, "does not say which architecture"),
    ],
)
def test_an_absurd_description_is_refused(tmp_path, weights, refused, change, message):
    path = tmp_path / "ours"
    save_weights(path, weights)
    document = path / "config" / "metadata"
    content = json.loads(document.read_text())
    changed = change["architecture"]
    content["architecture"] = changed and {**content["architecture"], **changed}
    document.write_text(json.dumps(content))
    refused(path, message)


def test_a_nested_description_and_strange_notes(tmp_path, weights, assert_same, refused):
    path = tmp_path / "ours"
    save_weights(path, weights)
    document = path / "config" / "metadata"
    document.write_text(json.dumps({**json.loads(document.read_text()), "metadata": [1]}))
    assert load_weights(path).metadata == {}
    document.write_text("[" * 200_000)
    refused(path, "neither a checkpoint written by `drsformer convert` nor a training workdir")


def test_saving_leaves_the_arrays_alone(tmp_path, weights, assert_same):
    # They are written without a copy.
    before = jax.tree.map(np.copy, weights.params)
    save_weights(tmp_path / "ours", weights)
    assert_same(weights.params, before)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(weights.params))


@pytest.mark.parametrize("content", ["saved_model.pb", "checkpoint.index", None])
def test_a_folder_of_another_program_is_refused(tmp_path, refused, content):
    path = tmp_path / "foreign"
    path.mkdir()
    if content:
        (path / content).write_bytes(b"x")
    refused(path, r"neither a checkpoint .* nor a training workdir")


def test_parameters_of_another_architecture_are_listed(tmp_path, weights):
    path = tmp_path / "ours"
    save_weights(path, weights)
    document = path / "config" / "metadata"
    content = json.loads(document.read_text())
    content["architecture"]["dim"] = 16
    document.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"wrong shape: patch_embed/kernel \(3, 3, 3, 8\)"):
        load_weights(path)


@pytest.mark.parametrize("ema", [False, True])
def test_newest_step_of_a_workdir_and_its_average(tmp_path, weights, assert_same, ema):
    workdir = tmp_path / "run"
    train(workdir, weights, [2, 10, 9], ema)
    loaded = load_weights(workdir)
    assert loaded.config == weights.config
    key = "ema_params" if ema else "params"
    assert loaded.metadata == {"source": "run", "step": "10", "parameters": key}
    assert_same(loaded.params, scaled(weights.params, -10 if ema else 10))


def test_one_step_of_a_workdir(tmp_path, weights, assert_same):
    train(tmp_path / "run", weights, [2, 3], ema=False)
    loaded = load_weights(tmp_path / "run" / "checkpoints" / "2")
    assert_same(loaded.params, scaled(weights.params, 2))


def test_only_the_parameters_are_read(tmp_path, weights, monkeypatch):
    train(tmp_path / "run", weights, [1], ema=True)
    restored = []
    restore = ocp.PyTreeCheckpointHandler.restore

    def spy(self, directory, item=None, args=None):
        restored.append(set(args.item))
        return restore(self, directory, args=args)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", spy)
    load_weights(tmp_path / "run")
    assert restored == [{"ema_params"}]


@pytest.mark.parametrize("damage", ["tensors", "nan", "config"])
def test_a_bad_newest_step_is_passed_over_and_named(tmp_path, weights, assert_same, damage):
    workdir = tmp_path / "run"
    train(workdir, weights, [1, 2], ema=False, spoil=2 if damage == "nan" else None)
    newest = workdir / "checkpoints" / "2"
    if damage == "tensors":
        truncate_tensors(newest / "state")
    elif damage == "config":
        (newest / "config" / "metadata").unlink()
    loaded = load_weights(workdir)
    assert_same(loaded.params, scaled(weights.params, 1))
    assert loaded.metadata["step"] == "1"
    assert loaded.metadata["notes"].startswith("step 2 was passed over: it ")
    assert str(tmp_path) not in loaded.metadata["notes"]


def test_an_unfinished_step_is_not_used(tmp_path, weights):
    workdir = tmp_path / "run"
    train(workdir, weights, [1], ema=False)
    checkpoints = workdir / "checkpoints"
    shutil.copytree(checkpoints / "1", checkpoints / "2.orbax-checkpoint-tmp-1700000000")
    assert load_weights(workdir).metadata["step"] == "1"


def test_a_workdir_without_a_good_step(tmp_path, weights):
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="run has no checkpoint yet"):
        load_weights(workdir)
    train(workdir, weights, [1], ema=False, spoil=1)
    with pytest.raises(UserError, match=r"run has no good checkpoint; step 1 .*output/kernel"):
        load_weights(workdir)


def test_reading_a_workdir_changes_nothing_in_it(tmp_path, weights):
    workdir = tmp_path / "run"
    train(workdir, weights, [1], ema=False)

    def listing():
        return sorted((p, p.stat().st_mtime_ns) for p in workdir.rglob("*"))

    before = listing()
    load_weights(workdir)
    assert listing() == before


def test_another_folder_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match=r"neither a checkpoint .* nor a training workdir"):
        load_weights(tmp_path)


def test_what_lies_below_another_folder_is_not_looked_at(tmp_path, monkeypatch):
    """As if / or the home were named, or a folder of many data sets."""
    below = tmp_path / "data" / "rain100l"
    below.mkdir(parents=True)
    (below / "1.png").touch()
    (tmp_path / "config" / "deep").mkdir(parents=True)
    seen = []
    for name in ("open", "scandir", "listdir"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda p, *args, real=real: seen.append(str(p)) or real(p, *args)
        )
    with pytest.raises(UserError, match=r"neither a checkpoint .* nor a training workdir"):
        load_weights(tmp_path)
    assert [path for path in seen if path.startswith(str(tmp_path))] == [
        str(tmp_path / "config" / "metadata")
    ]
