from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.checkpoints.names import from_tree, to_tree
from drsformer_jax.checkpoints.weights import (
    Weights,
    form_of,
    load_weights,
    save_weights,
)
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig

FORMS = ("w.pth", "w.safetensors", "w")

# Every kind of tensor there is: biases, MEFC, stacks of one block and of two.
EVERYTHING = DRSformerConfig(dim=8, num_blocks=(1, 2, 1, 1), heads=(1, 2, 2, 4), bias=True)

# Finite values that a careless conversion changes: both zeros, denormals, the largest, an odd bit.
AWKWARD = np.array([0.0, -0.0, 1e-45, -1e-40, 3.4028235e38, 1 + 2**-23], np.float32)


@pytest.fixture
def awkward(random_state) -> Weights:
    """A network of every kind of tensor, with awkward values in each that has room for them."""
    state = random_state(EVERYTHING)
    for array in state.values():
        array.reshape(-1)[: len(AWKWARD)] = AWKWARD[: array.size]
    return Weights(EVERYTHING, to_tree(state, EVERYTHING), {"recipe": "demo"})


def need_torch(*names: str) -> None:
    if "w.pth" in names:
        pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.parametrize(("first", "second"), [*itertools.product(FORMS, FORMS)])
def test_every_direction_is_bitwise(tmp_path, awkward, assert_same, first, second):
    need_torch(first, second)
    folder = tmp_path / "converted"
    folder.mkdir()
    save_weights(tmp_path / first, awkward)
    save_weights(folder / second, load_weights(tmp_path / first))
    final = load_weights(folder / second)
    assert final.config == EVERYTHING
    assert_same(final.params, awkward.params)
    if "w.pth" not in (first, second):
        assert final.metadata == {"recipe": "demo"}


@pytest.mark.parametrize("order", [*itertools.permutations(FORMS)])
def test_chains_are_bitwise(tmp_path, awkward, assert_same, order):
    need_torch(*order)
    weights = awkward
    for number, name in enumerate((*order, order[0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_weights(folder / name, weights)
        weights = load_weights(folder / name)
    assert_same(weights.params, awkward.params)


def test_other_architectures_survive_every_form(tmp_path, config, random_state, assert_same):
    need_torch(*FORMS)
    original = Weights(config, to_tree(random_state(config), config))
    weights = original
    for name in FORMS:
        save_weights(tmp_path / name, weights)
        weights = load_weights(tmp_path / name)
        assert weights.config == config
        assert_same(weights.params, original.params)


@pytest.mark.parametrize("reverse", [False, True], ids=["declared", "reverse"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_tensors_may_lie_in_any_order(tmp_path, awkward, assert_same, name, reverse):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save_file

    state = from_tree(awkward.params, EVERYTHING)
    names = sorted(state, reverse=True) if reverse else list(state)
    tensors = {name: torch.from_numpy(state[name]) for name in names}
    if name == "w.pth":
        torch.save({"params": tensors}, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    loaded = load_weights(tmp_path / name)
    assert loaded.config == EVERYTHING
    assert_same(loaded.params, awkward.params)


@pytest.mark.parametrize("source", FORMS)
def test_pytorch_loads_every_bit_strictly(tmp_path, awkward, source, assert_same):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from drsformer_jax.parity.torch_drsformer import network

    (tmp_path / "source").mkdir()
    save_weights(tmp_path / "source" / source, awkward)
    save_weights(tmp_path / "w.pth", load_weights(tmp_path / "source" / source))
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    module = network(EVERYTHING)
    module.load_state_dict(content["params"], strict=True)
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert_same(arrays, from_tree(awkward.params, EVERYTHING))


def test_a_place_that_may_not_be_looked_at_is_a_users_error(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.touch()
    stat = Path.stat

    def deny(self, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return stat(self, **options)

    # The user that runs the tests may be one to whom everything is permitted.
    monkeypatch.setattr(Path, "stat", deny)
    with pytest.raises(UserError, match=r"w\.safetensors cannot be read: Permission denied"):
        load_weights(path)


def test_a_file_that_may_not_be_written_leaves_nothing(tmp_path, weights, monkeypatch):
    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", deny)
    monkeypatch.setattr("tempfile.mkdtemp", deny)
    for name in FORMS:
        need_torch(name)
        with pytest.raises(UserError, match=f"{name} cannot be written: Permission denied"):
            save_weights(tmp_path / name, weights)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["w.onnx", "w.ckpt", "weights.v2"])
def test_an_unknown_suffix_is_not_written(tmp_path, weights, name):
    with pytest.raises(UserError, match=r"\.pth, \.pt or \.safetensors"):
        save_weights(tmp_path / name, weights)


@pytest.mark.parametrize("written", ["w.pth", "w.safetensors"])
def test_a_file_is_known_by_its_content(tmp_path, weights, assert_same, written):
    need_torch(written)
    path = tmp_path / written
    save_weights(path, weights)
    for name in ("w.ckpt", "w.pth.tar", "w.bin", "w.th", "w.safetensors", "w.pth", "weights"):
        path = path.rename(tmp_path / name)
        assert_same(load_weights(path).params, weights.params)


def test_what_is_no_file_is_refused():
    with pytest.raises(UserError, match="/dev/null is neither a file nor a folder"):
        load_weights("/dev/null")


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
