from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import drsformer_jax
from drsformer_jax.checkpoints.names import to_tree
from drsformer_jax.checkpoints.weights import (
    Weights,
    default_weights,
    form_of,
    load_weights,
    save_weights,
)
from drsformer_jax.errors import UserError

FORMS = ("w.pt", "w.safetensors", "w")


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(FORMS, 2)])
def test_round_trips_are_bitwise(tmp_path, config, random_state, assert_same, first, second):
    if "w.pt" in (first, second):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    original = Weights(config, to_tree(random_state(config), config), {"recipe": "demo"})
    save_weights(tmp_path / first, original)
    save_weights(tmp_path / second, load_weights(tmp_path / first))
    final = load_weights(tmp_path / second)
    assert final.config == config
    assert_same(final.params, original.params)
    if "w.pt" not in (first, second):
        assert final.metadata == {"recipe": "demo"}


@pytest.mark.parametrize("name", ["w.onnx", "w.ckpt", "weights.v2"])
def test_an_unknown_suffix_is_refused(tmp_path, weights, name):
    with pytest.raises(UserError, match=r"\.pth, \.pt or \.safetensors"):
        save_weights(tmp_path / name, weights)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.pth, \.pt or \.safetensors"):
        load_weights(tmp_path / name)


def test_suffixes_are_read_in_any_case():
    forms = [form_of(Path(name)) for name in ("A.PTH", "b.pt", "C.SafeTensors", "d")]
    assert forms == ["pytorch", "pytorch", "safetensors", "directory"]


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file"):
        load_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_folder_is_not_replaced_by_a_file(tmp_path, weights, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="is a folder"):
        save_weights(tmp_path / name, weights)


@pytest.mark.parametrize("name", ["w.safetensors", "w"])
def test_a_place_that_cannot_be_written_is_a_users_error(tmp_path, weights, name):
    with pytest.raises(UserError, match="cannot be written: No such file"):
        save_weights(tmp_path / "nowhere" / name, weights)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_their_configuration_are_not_written(tmp_path, weights):
    del weights.params["output"]
    with pytest.raises(UserError, match="1 missing: output/kernel"):
        save_weights(tmp_path / "w.safetensors", weights)
    assert list(tmp_path.iterdir()) == []


def test_default_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(drsformer_jax, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match="--weights"):
        default_weights()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "small.safetensors").touch()
    assert default_weights() == tmp_path / "weights" / "small.safetensors"


def test_files_are_read_without_heavy_imports(tmp_path, weights):
    path = tmp_path / "w.safetensors"
    save_weights(path, weights)
    code = (
        "import sys; from drsformer_jax.checkpoints.weights import load_weights\n"
        "load_weights(sys.argv[1])\n"
        "print([m for m in ('torch', 'orbax', 'tensorflow', 'grain') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
