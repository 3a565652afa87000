"""Names that programs around the network give its tensors."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from drsformer_jax.checkpoints.foreign_names import own_names, split_name
from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.checkpoints.weights import load_weights
from drsformer_jax.cli.main import main
from drsformer_jax.errors import UserError

PREFIXES = (
    "module.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "module.module.",
    "net_g.",
    "netG.",
    "model.",
    "generator.",
    "ema_model.module.",
    "state_dict.network.",
    "_forward_module.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_and_said(config, random_state, prefix):
    state = random_state(config)
    own, notes = own_names({prefix + name: array for name, array in state.items()}, "x")
    assert own == state
    assert list(own) == list(state)
    assert notes == [f"took '{prefix}' off {len(state)} of {len(state)} tensors' names"]


def test_own_names_are_left_alone(config, random_state):
    state = random_state(config)
    assert own_names(state, "x") == (state, [])


def test_every_name_of_the_network_is_known(config):
    for name in torch_names(config):
        assert split_name(name) == (name, "")
        assert split_name(f"a.b.{name}") == (name, "a.b.")


def test_prefixes_may_be_mixed(small, random_state):
    state = random_state(small)
    turns = ["", "module.", "_orig_mod.module.", "net_g.", "module.net_g."]
    mixed = {turns[i % 5] + name: array for i, (name, array) in enumerate(state.items())}
    own, (note,) = own_names(mixed, "x")
    assert own == state
    assert note.startswith("took 'module.' off ")
    assert "'_orig_mod.module.' off" in note
    assert ", and others off" in note


def test_halves_of_two_networks_are_not_made_one(small, random_state):
    names = list(random_state(small))
    halves = {
        ("net_g." if i % 2 else "module.net_d.") + n: np.zeros(1) for i, n in enumerate(names)
    }
    with pytest.raises(
        UserError, match=r"x holds tensors of several networks \(net_d\., net_g\.\)"
    ):
        own_names(halves, "x")


@pytest.mark.parametrize(
    ("name", "short", "extra"),
    [
        ("latent._orig_mod.0.attn.attn1", "latent.0.attn.attn1", "_orig_mod."),
        ("module.latent.0.attn.module.attn1", "latent.0.attn.attn1", "module.module."),
        (
            "_fsdp_wrapped_module.latent.0._fsdp_wrapped_module._checkpoint_wrapped_module.attn.attn1",
            "latent.0.attn.attn1",
            "_fsdp_wrapped_module._fsdp_wrapped_module._checkpoint_wrapped_module.",
        ),
        ("net.output.output.weight", "output.weight", "net.output."),
    ],
)
def test_wrappers_inside(name, short, extra):
    assert split_name(name) == (short, extra)


@pytest.mark.parametrize(
    "name",
    ["", ".", "weight", "module.weight", "output", "latent.0.attn.attn5", "latent.x.attn.attn1"],
)
def test_names_that_are_not_the_networks(name):
    assert split_name(name) is None
    tensor = np.zeros(2)
    assert own_names({name: tensor}, "x") == ({name: tensor}, [])


@pytest.mark.parametrize("others", [("", "module."), ("model.", "ema_model."), ("a.", "a.a.")])
def test_two_tensors_for_one_name_are_refused(small, random_state, others):
    first, second = others
    state = random_state(small)
    both = {first + name: array for name, array in state.items()}
    both[f"{second}output.weight"] = state["output.weight"]
    with pytest.raises(UserError) as error:
        own_names(both, "x.pth")
    assert str(error.value) == (
        "x.pth holds tensors of the network more than once "
        f"({first}output.weight and {second}output.weight; 1 in all): save one network alone"
    )


def test_counters_of_thop_are_left_out_and_said(small, random_state):
    state = random_state(small)
    counted = {f"module.{name}": array for name, array in state.items()}
    for place in ("", "latent.0.", "latent.0.attn.qkv."):
        counted[f"module.{place}total_ops"] = np.zeros(1)
        counted[f"module.{place}total_params"] = np.array(7)
    own, notes = own_names(counted, "x")
    assert own == state
    assert notes[1] == (
        "left out what thop has counted: module.total_ops, module.total_params, "
        "module.latent.0.total_ops, and 3 more"
    )


def test_what_is_only_called_like_a_counter_stays():
    tensor = np.zeros(2)
    kept, notes = own_names({"latent.total_ops": tensor, "total_ops.weight": tensor[:1]}, "x")
    assert list(kept) == ["latent.total_ops", "total_ops.weight"]
    assert notes == []


def test_the_command_says_it_and_the_result_is_the_same(
    tmp_path, small, random_state, assert_same, capsys
):
    state = random_state(small)
    save_file({f"net_g.{name}": array for name, array in state.items()}, tmp_path / "a.safetensors")
    save_file(state, tmp_path / "b.safetensors")
    results = []
    for name in "ab":
        source, target = tmp_path / f"{name}.safetensors", tmp_path / f"{name}2.safetensors"
        assert main(["convert", str(source), str(target)]) == 0
        results.append(load_weights(target))
    assert capsys.readouterr().out.count("  note: took 'net_g.' off ") == 1
    assert results[0].metadata == results[1].metadata
    assert_same(results[0].params, results[1].params)


def test_another_unknown_tensor_is_refused_as_ever(tmp_path, small, random_state):
    state = {f"net_g.{name}": array for name, array in random_state(small).items()}
    path = tmp_path / "w.safetensors"
    save_file(state | {"net_g.conv.weight": np.zeros(2, np.float32)}, path)
    with pytest.raises(UserError, match=r"1 unknown: net_g\.conv\.weight$"):
        load_weights(path)
