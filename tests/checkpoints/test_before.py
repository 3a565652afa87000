"""A workdir and a file that an earlier version wrote: they load, resume and convert to the bit.

`fixtures/before.tar.xz` holds both, `before.json` what that version made of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open

from drsformer_jax.checkpoints.runs import TrainingCheckpoints
from drsformer_jax.checkpoints.weights import load_weights
from drsformer_jax.cli.main import main
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.random_weights import random_weights
from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
from drsformer_jax.training.resuming import first_state
from drsformer_jax.training.sharding import make_mesh
from drsformer_jax.training.state import TrainState

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "before.json").read_text())


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(FIXTURES / "before.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def digest(tree: Any) -> str:
    """sha256 of the paths, dtypes, shapes and bytes of a tree's arrays."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def digest_of_torch(content: Any) -> str:
    """sha256 of a file of PyTorch: keys in order, tensors, numbers by their type."""
    import torch

    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key, value in part.items():
                found.update(repr(key).encode())
                add(value)
        elif isinstance(part, list | tuple):
            for value in part:
                add(value)
        elif isinstance(part, torch.Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)} ".encode() + part.numpy().tobytes())
        else:
            found.update(repr(part).encode())

    add(content)
    return found.hexdigest()


@pytest.mark.parametrize("name", list(EXPECTED))
def test_it_loads(before: Path, name: str) -> None:
    weights = load_weights(before / name)
    assert weights.metadata == EXPECTED[name]["metadata"]
    assert weights.config.architecture() == EXPECTED[name]["architecture"]
    assert weights.notes == ()
    assert digest(weights.params) == EXPECTED[name]["params"]


@pytest.mark.parametrize("form", ["new.safetensors", "new.pth", "new"])
@pytest.mark.parametrize("name", list(EXPECTED))
def test_it_converts(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, form: str
) -> None:
    if form == "new.pth":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / form
    assert main(["convert", str(before / name), str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == EXPECTED[name]["report"]
    if form == "new.safetensors":
        with safe_open(path, framework="np") as file:
            header = json.dumps(file.metadata(), sort_keys=True).encode()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found = digest({"header": np.frombuffer(header, np.uint8), **tensors})
    elif form == "new.pth":
        import torch

        content = torch.load(path, weights_only=True)
        assert list(content) == ["params"]
        tensors = [(key, value.numpy()) for key, value in content["params"].items()]
        names = ",".join(content["params"])
        found = hashlib.sha256((names + digest(tensors)).encode()).hexdigest()
    else:
        found = digest(load_weights(path).params)
    assert found == EXPECTED[name]["converted"][form]


def test_the_workdir_becomes_a_training_state(before: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert main(["convert", str(before / "workdir"), str(tmp_path / "2.state")]) == 0
    for name in ("2.state", "net_g_2.pth"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert digest_of_torch(content) == EXPECTED["workdir"][name]
    # And back again.
    assert main(["convert", str(tmp_path / "2.state"), str(tmp_path / "run")]) == 0
    assert digest(load_weights(tmp_path / "run").params) == EXPECTED["workdir"]["params"]


def test_the_workdir_resumes(before: Path) -> None:
    saved = json.loads((before / "workdir" / "config.json").read_text())
    config = DRSformerConfig.from_architecture(EXPECTED["workdir"]["architecture"])
    options = OptimizerOptions(**saved["optimizer"])

    def create(initial: object) -> TrainState:
        assert initial is None
        params = jax.tree.map(jax.numpy.asarray, random_weights(config, 0).params)
        zero = jax.numpy.zeros((), jax.numpy.int32)
        return TrainState(zero, params, make_optimizer(options).init(params), params)

    with contextlib.closing(TrainingCheckpoints(before / "workdir", keep=None)) as checkpoints:
        state, data = first_state(create, None, checkpoints, make_mesh(), lambda _: None)
    assert data["next_step"] == 2
    parts = ("step", "params", "opt_state", "ema_params")
    assert digest({part: getattr(state, part) for part in parts}) == EXPECTED["workdir"]["state"]
