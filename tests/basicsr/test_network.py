"""The network file of a training state: where it lies, what it holds."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.basicsr import SMALLEST, AuthorsRun, saved_run  # noqa: E402

from drsformer_jax.basicsr.network import (  # noqa: E402
    find_network,
    place_for_network,
    read_network,
)
from drsformer_jax.basicsr.state import read_state  # noqa: E402


def test_it_is_found_where_basicsr_puts_it_else_beside_the_state(tmp_path):
    path = saved_run(tmp_path, 1)
    network = tmp_path / "models" / "net_g_1.pth"
    assert find_network(read_state(path)) == network
    moved = path.rename(tmp_path / "elsewhere.state")
    beside = network.rename(tmp_path / "net_g_1.pth")
    assert find_network(read_state(moved)) == beside
    back = moved.rename(path)
    beside.rename(back.parent / "net_g_1.pth")
    assert find_network(read_state(back)) == path.parent / "net_g_1.pth"


def test_where_it_was_looked_for_is_said(tmp_path):
    path = saved_run(tmp_path, 1)
    (tmp_path / "models" / "net_g_1.pth").unlink()
    with pytest.raises(UserError) as error:
        find_network(read_state(path))
    for place in ("models/net_g_1.pth", "training_states/net_g_1.pth"):
        assert str(tmp_path / place) in str(error.value)
    assert "--network" in str(error.value)


def test_place_for_network(tmp_path):
    states = tmp_path / "training_states"
    assert place_for_network(states / "5.state", 5) == states / "net_g_5.pth"
    (tmp_path / "models").mkdir()
    assert place_for_network(states / "5.state", 5) == tmp_path / "models" / "net_g_5.pth"
    assert place_for_network(tmp_path / "5.state", 5) == tmp_path / "net_g_5.pth"


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_parameters_and_average(tmp_path, ema_decay):
    run = AuthorsRun(ema_decay=ema_decay)
    run.step()
    run.save(tmp_path)
    network = read_network(tmp_path / "models" / "net_g_1.pth", 1)
    assert network.config == SMALLEST
    assert network.notes == ()
    found = from_tree(network.params, SMALLEST)
    for name, array in run.parameters().items():
        np.testing.assert_array_equal(found[name], array)
    assert (network.ema is not None) == (run.ema is not None)
    if run.ema is not None and network.ema is not None:
        averages = from_tree(network.ema, SMALLEST)
        for name, average in run.ema.named_parameters():
            np.testing.assert_array_equal(averages[name], average.detach().numpy())


def test_notes(tmp_path):
    state = AuthorsRun().module.state_dict()
    params = {f"module.{name}": t.half() for name, t in state.items()}
    average = {f"_orig_mod.{name}": t.half() for name, t in state.items()}
    average["_orig_mod.total_ops"] = torch.zeros(1, dtype=torch.float64)
    path = tmp_path / "net_g_8.pth"
    torch.save({"params": params, "params_ema": average, "best_psnr": np.float64(31.5)}, path)
    network = read_network(path, 9)
    assert network.notes == (
        "params: took 'module.' off 136 of 136 tensors' names",
        "params_ema: took '_orig_mod.' off 136 of 136 tensors' names",
        "params_ema: left out what thop has counted: _orig_mod.total_ops",
        "272 tensors of float16 converted to float32, exactly",
        "net_g_8.pth is named after another step than the state's 9",
    )
    found = from_tree(network.params, SMALLEST)
    np.testing.assert_array_equal(found["output.weight"], state["output.weight"].half().numpy())


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(UserError, match=r"--network .*net\.pth: no such file"):
        read_network(path, 1)
    path.write_bytes(b"<html>gone</html>")
    with pytest.raises(UserError, match=r"net\.pth is a web page"):
        read_network(path, 1)
    save_file({"output.weight": np.zeros(1, np.float32)}, path)
    with pytest.raises(UserError, match=r"net\.pth is a safetensors file, not one that PyTorch"):
        read_network(path, 1)
    state = AuthorsRun().module.state_dict()
    torch.save(state, path)
    with pytest.raises(UserError, match="holds no weights under params"):
        read_network(path, 1)
    name = "latent.0.attn.temperature"
    torch.save({"params": state, "params_ema": state | {name: torch.ones(9)}}, path)
    with pytest.raises(UserError, match=rf"\(params_ema\) does not fit .*{name}"):
        read_network(path, 1)
    torch.save({"params": state | {name: state[name] * torch.nan}}, path)
    with pytest.raises(UserError, match=f"NaN or infinite values .*in {name}"):
        read_network(path, 1)
