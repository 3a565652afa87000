from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from drsformer_jax.checkpoints.names import to_tree
from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.checkpoints.weights import Weights, load_weights, save_weights
from drsformer_jax.cli.main import main
from drsformer_jax.models.config import PRESETS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small network as .safetensors."""
    config = PRESETS["tiny"]
    rng = np.random.default_rng(0)
    state = {
        name: rng.standard_normal(spec.shape, dtype=np.float32)
        for name, spec in torch_names(config).items()
    }
    path = tmp_path / "tiny.safetensors"
    save_weights(path, Weights(config, to_tree(state, config), {"recipe": "demo"}))
    return path


def convert(*arguments) -> int:
    return main(["convert", *map(str, arguments)])


def same(first: Path, second: Path) -> bool:
    a, b = load_weights(first), load_weights(second)
    equal = jax.tree.map(np.array_equal, a.params, b.params)
    return a.config == b.config and all(jax.tree.leaves(equal))


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net", "net.safetensors"])
def test_converts_there_and_back(source, tmp_path, name, capsys):
    if "pt" in name:
        pytest.importorskip("torch", reason="PyTorch is not installed")
    there, back = tmp_path / name, tmp_path / "back.safetensors"
    assert convert(source, there) == 0
    assert convert(there, back) == 0
    assert same(source, back)
    output = capsys.readouterr().out
    number = sum(leaf.size for leaf in jax.tree.leaves(load_weights(source).params))
    assert f"{len(torch_names(PRESETS['tiny']))} tensors, {number:,} parameters" in output
    assert "dim 8, blocks 1 1 1 1, heads 1 2 2 4, MSFN factor 2.66" in output
    assert "LayerNorm WithBias, no biases, without MEFC" in output
    assert f"-> {there}" in output


def test_what_was_noted_is_told(source, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    convert(source, tmp_path / "net.pth")
    content = torch.load(tmp_path / "net.pth", weights_only=True)
    half = {f"module.{name}": tensor.half() for name, tensor in content["params"].items()}
    torch.save({"params": half, "params_ema": half}, tmp_path / "half.pth")
    assert convert(tmp_path / "half.pth", tmp_path / "half.safetensors") == 0
    output = capsys.readouterr().out
    assert "half.pth (container params)" in output
    assert "note: used params; the file also has params_ema; " in output
    assert "of float16 converted to float32" in output
    # And it stays with the weights.
    assert "float16" in load_weights(tmp_path / "half.safetensors").metadata["notes"]


@pytest.mark.parametrize("name", ["net.safetensors", "net"])
def test_an_existing_destination_needs_force(source, tmp_path, name, capsys):
    path = tmp_path / name
    assert convert(source, path) == 0
    before = sorted((p, p.stat().st_mtime_ns) for p in [path, *path.rglob("*")])
    assert convert(source, path) == 2
    assert f"{path} exists" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in [path, *path.rglob("*")]) == before
    assert convert(source, path, "--force") == 0
    assert same(source, path)


@pytest.mark.parametrize("name", ["pictures", "pictures.pth"])
def test_force_never_replaces_a_foreign_folder(source, tmp_path, name, capsys):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"x")
    assert convert(source, folder, "--force") == 2
    assert "error: " in capsys.readouterr().err
    assert [entry.name for entry in folder.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("kind", ["link", "hard link", "linked folder", "folder around it"])
def test_force_never_replaces_the_source_under_another_name(source, tmp_path, kind, capsys):
    other = tmp_path / "other.safetensors"
    if kind == "link":
        other.symlink_to(source)
    elif kind == "hard link":
        other.hardlink_to(source)
    elif kind == "linked folder":
        (tmp_path / "folder").symlink_to(".")
        other = tmp_path / "folder" / source.name
    else:
        other = tmp_path / "checkpoint"
        assert convert(source, other) == 0
        source = source.rename(other / source.name)
    before = source.read_bytes()
    assert convert(source, other, "--force") == 2
    assert f"{other}: would overwrite {source}" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_names_that_are_no_text(source, tmp_path, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    name = os.fsdecode(b"w\xdf")
    there, back = tmp_path / f"{name}.pth", tmp_path / f"{name}.safetensors"
    assert convert(source, there) == 0
    assert convert(there, back) == 0
    assert same(source, back)
    assert load_weights(back).metadata["source"] == "w\\udcdf.pth"
    # Orbax could not read it again.
    assert convert(source, tmp_path / name) == 2
    assert "whose name is UTF-8" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_converting_onto_itself_with_force_keeps_the_weights(source, tmp_path):
    before = load_weights(source)
    assert convert(source, source, "--force") == 0
    after = load_weights(source)
    assert after.metadata == before.metadata
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


@pytest.mark.parametrize(
    ("destination", "message"),
    [("net.onnx", "cannot tell the form"), ("no/net.safetensors", "there is no folder")],
)
def test_bad_destinations(source, tmp_path, destination, message, capsys):
    assert convert(source, tmp_path / destination) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == [source.name]


@pytest.mark.parametrize("destination", ["net.safetensors", "net"])
def test_a_bad_source_writes_nothing(source, tmp_path, destination, capsys):
    source.write_bytes(source.read_bytes()[:-10])
    assert convert(source, tmp_path / destination) == 2
    error = capsys.readouterr().err
    assert error.startswith("drsformer: error: ")
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == [source.name]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training state of the authors' program, its network in its place."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from reference.basicsr import saved_run

    return saved_run(tmp_path_factory.mktemp("experiment"))


def test_a_training_state_becomes_a_workdir_and_back(state, tmp_path, capsys):
    workdir, back = tmp_path / "run", tmp_path / "3.state"
    assert convert(state, workdir) == 0
    output = capsys.readouterr().out
    network = state.parents[1] / "models" / "net_g_3.pth"
    assert output.startswith(f"{state} and {network}\n  DRSformer: dim 8, blocks 1 1 1 1")
    assert "  136 tensors, 279,922 parameters\n" in output
    assert "  step 3: parameters and AdamW's moments, without a moving average\n" in output
    assert f"-> {workdir}\n   python train.py --config CONFIG --workdir {workdir} " in output
    assert convert(workdir, back, "--network", tmp_path / "net.pth") == 0
    assert f"-> {back} and {tmp_path / 'net.pth'}\n" in capsys.readouterr().out
    assert same(network, tmp_path / "net.pth")
    assert convert(workdir, back, "--network", tmp_path / "net.pth") == 2
    assert f"{back} exists: give another name, or --force" in capsys.readouterr().err
    assert convert(workdir, back, "--network", tmp_path / "net.pth", "--force") == 0
    # Its weights are had as those of every workdir.
    assert convert(workdir, tmp_path / "weights.safetensors") == 0


def test_notes_are_told(state, tmp_path, capsys):
    network = state.parents[1] / "models" / "net_g_3.pth"
    (tmp_path / "net_g_2.pth").write_bytes(network.read_bytes())
    assert convert(state, tmp_path / "run", "--network", tmp_path / "net_g_2.pth") == 0
    assert "  note: net_g_2.pth is named after another step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["STATE", "b.state"], "both end in .state: one of them must be a workdir"),
        (["STATE", "net.pth"], "a training state becomes a workdir: name a folder"),
        (["STATE", "net.safetensors"], "a training state becomes a workdir: name a folder"),
        (["STATE", "run", "--network", "nothing.pth"], "--network nothing.pth: no such file"),
        (["run", "b.state", "--network", "net.safetensors"], "is a .pth file"),
        (["STATE", "run", "--network", "weights.safetensors"], "weights.safetensors is empty"),
        (["nothing.state", "run"], "nothing.state: no such file"),
        (["weights.safetensors", "net.pth", "--network", "n.pth"], "neither SRC nor DST ends in"),
        (["weights.safetensors", "b.state"], "only a training workdir"),
        (["nothing", "b.state"], "only a training workdir"),
    ],
)
def test_bad_requests_for_runs(state, tmp_path, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    given = [str(state) if argument == "STATE" else argument for argument in arguments]
    assert convert(*given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("drsformer: error: ")
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["weights.safetensors"]
