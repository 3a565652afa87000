"""Keys under which programs save a network's weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from drsformer_jax.checkpoints.foreign_names import select_weights  # noqa: E402
from drsformer_jax.checkpoints.pytorch_file import read_pytorch  # noqa: E402

PATH = Path("x.pth")
NETWORK = {"output.weight": torch.ones(1), "latent.0.attn.attn1": torch.ones(1)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}


@pytest.mark.parametrize(
    "key",
    ["model_state_dict", "model", "net", "net_g", "netG", "generator", "network", "anything else"],
)
def test_one_network_is_found_under_any_key(key):
    arguments = {"depth": 3, "name": "x"}
    other = {"conv.weight": torch.zeros(2)}
    content = {"epoch": 3, "params": arguments, "optimizer": OPTIMIZER, "net_d": other}
    assert select_weights(content | {key: NETWORK}, PATH) == (key, NETWORK, [])


def test_it_may_lie_deeper_and_have_a_prefix(tmp_path):
    named = {f"module.{name}": tensor for name, tensor in NETWORK.items()}
    torch.save({"state": {"net_g": named}}, tmp_path / PATH)
    found = read_pytorch(tmp_path / PATH)
    assert list(found.tensors) == list(NETWORK)
    assert found.metadata == {"source": "x.pth", "container": "state.net_g"}
    assert found.notes == ("took 'module.' off 2 of 2 tensors' names",)


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (["state_dict", "params_ema", "params"], "params"),
        (["model", "state_dict", "params_ema"], "params_ema"),
        (["model", "state_dict"], "state_dict"),
        (["mine", "generator", "net"], "net"),
    ],
)
def test_of_several_the_choice_is_fixed_and_said(keys, taken, tmp_path):
    other = {name: torch.zeros(1) for name in NETWORK}
    torch.save({key: NETWORK if key == taken else other for key in keys}, tmp_path / PATH)
    found = read_pytorch(tmp_path / PATH)
    assert found.tensors["output.weight"].read().item() == 1
    assert found.metadata["container"] == taken
    (note,) = found.notes
    assert found.metadata["notes"] == note
    assert note.startswith(f"used {taken}; the file also has ")
    assert all(key in note for key in keys)


def test_an_open_choice_is_refused():
    with pytest.raises(UserError, match=r"x\.pth holds several networks \(mine, yours\): save one"):
        select_weights({"mine": NETWORK, "yours": NETWORK}, PATH)
    with pytest.raises(UserError, match=r"x\.pth holds several networks \(bare, mine\): save one"):
        select_weights(NETWORK | {"mine": NETWORK}, PATH)


def test_a_file_that_holds_itself_is_no_trap():
    content: dict = {"x": {"epoch": 3}}
    content["x"]["again"] = content
    with pytest.raises(UserError, match="holds no weights under params"):
        select_weights(content, PATH)
    content["x"]["net"] = NETWORK
    assert select_weights(content, PATH)[0] == "x.net"
