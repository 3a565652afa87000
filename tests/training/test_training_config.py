"""Configurations: bad values are named, equal runs are told from different ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
from reference.toy_training import small_config

from drsformer_jax.data.pipeline import Stage
from drsformer_jax.errors import UserError
from drsformer_jax.training.config import check_same_run, training_options


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "config.seed"),
        ("total_steps", 0, "config.total_steps"),
        ("patch_size", 12, "config.patch_size: patch sizes must be multiples of 8, not 12"),
        ("global_batch", 0, "config.global_batch"),
        ("accumulation_steps", 3, "must divide the global batch of 4"),
        ("ema_decay", 1.0, "config.ema_decay"),
        ("keep_checkpoints", 0, "config.keep_checkpoints"),
        ("progressive", ((1, 2),), "config.progressive"),
        ("progressive", ((0, 4, 8), (5, 4, 8)), "config.progressive"),
        ("progressive", ((5, 4, 9),), "config.progressive"),
        ("data.threads", -1, "config.data.threads"),
        ("data.augment", "flips", "config.data.augment"),
        ("model.preset", "huge", "config.model.preset: 'huge' is not one of"),
        ("model.dim", 7, "config.model: dim must be even"),
        ("model.dtype", "float16", "config.model: dtype"),
        ("optimizer.learning_rate", -1.0, "config.optimizer: learning_rate"),
        ("optimizer.learning_rate", math.inf, "config.optimizer: learning_rate must be positive"),
        ("optimizer.eps", math.nan, "config.optimizer: eps must be positive, not nan"),
        ("optimizer.weight_decay", math.nan, "config.optimizer: weight_decay .* not nan"),
        ("optimizer.final_learning_rate", math.inf, "config.optimizer: final_learning_rate"),
        ("optimizer.clip_norm", math.nan, "config.optimizer: clip_norm"),
        (
            "optimizer.decay_steps",
            2**31,
            r"config\.optimizer\.decay_steps: must be at most 2147483647",
        ),
        ("seed", 2**63, "config.seed: must be at most 9223372036854775807"),
        ("total_steps", 2**31, "config.total_steps: must be at most 2147483647"),
        ("mesh.data", 2**31, "config.mesh.data: must be at most 2147483647"),
        ("progressive", ((1.5, 4, 8),), "config.progressive: must be a list"),
        ("progressive", ((math.inf, 4, 8),), "config.progressive: must be a list"),
        ("model.heads", (math.inf,), "config.model: heads must be four positive integers"),
        ("model.num_blocks", "few", "config.model: num_blocks must be .* integers, not 'few'"),
        ("model.num_blocks", (1.5, 1, 1, 1), "config.model: num_blocks must be four positive"),
        ("model.ffn_expansion_factor", math.inf, "config.model: ffn_expansion_factor"),
        # In a file of one's own nothing keeps values to their types.
        ("model.preset", [], "config.model.preset: .* is not one of"),
        ("model.dim", "16", "config.model: dim must be a whole number, not '16'"),
        ("model.dim", 16.0, "config.model: dim must be a whole number, not 16.0"),
        ("model.ffn_expansion_factor", "2", "config.model: ffn_expansion_factor must be a number"),
        ("model.bias", "false", r"config.model: bias must be one of .*, not 'false'"),
        ("model.unroll", "false", r"config.model: unroll must be one of .*, not 'false'"),
        ("model.remat", "false", r"config.model: remat must be one of .*, not 'false'"),
        (
            "optimizer.learning_rate",
            None,
            "config.optimizer: learning_rate must be a number, not N",
        ),
        ("optimizer.b1", [0.9], r"config.optimizer: b1 must be a number, not \[0.9\]"),
        ("optimizer.hold_steps", "9", "config.optimizer: hold_steps must be a number, not '9'"),
        ("ema_decay", "0.9", "config.ema_decay: must be in"),
        ("global_batch", "4", "config.global_batch: must be a whole number, not '4'"),
        ("patch_size", None, "config.patch_size: must be a whole number, not None"),
        ("data.threads", "2", "config.data.threads: must be a whole number, not '2'"),
        ("data.rain_versions", 1.5, "config.data.rain_versions: must be a whole number"),
    ],
)
def test_bad_values_are_named(key: str, value: Any, message: str) -> None:
    config = small_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        training_options(config)


def test_model_keys_override_the_preset() -> None:
    options = training_options(small_config(model__dim=16, model__use_mefc=True))
    assert options.model.dim == 16
    assert options.model.use_mefc
    assert options.model.num_blocks == (1, 1, 1, 1)


def test_stages() -> None:
    assert training_options(small_config()).stages == (Stage(None, 4, 8),)
    progressive = training_options(small_config(progressive=((3, 4, 8), (2, 2, 16))))
    assert progressive.stages == (Stage(3, 4, 8), Stage(2, 2, 16))


def test_what_may_change_between_resumptions() -> None:
    config = small_config()
    saved = config.to_dict()
    changed = small_config(total_steps=99, data__val="elsewhere", init="weights.pth").to_dict()
    changed["eval"] = {"protocol": "did_ddn", "data_set": "did", "batch_size": 4}  # scores alone
    check_same_run(saved, changed, "w")
    # Of a run that was begun when there was no such key.
    check_same_run({key: saved[key] for key in saved if key != "init"}, changed, "w")
    data = {k: v for k, v in saved["data"].items() if k != "augment"}
    check_same_run(saved | {"data": data}, changed, "w")
    mirrored = small_config(data__augment="mirror").to_dict()
    with pytest.raises(UserError, match=r"data\.augment \(dihedral there, mirror here\)"):
        check_same_run(saved | {"data": data}, mirrored, "w")
    before = saved | {"optimizer": {k: v for k, v in saved["optimizer"].items() if k != "name"}}
    check_same_run(before, saved, "w")
    with pytest.raises(UserError, match=r"optimizer\.name \(adamw there, muon here\)"):
        check_same_run(before, small_config(optimizer__name="muon").to_dict(), "w")
    mixed = saved | {"data": {"rain": {"mist": 0.1}}}
    as_before = {"unknown": 1.0, "dense": 0.0, "gain": (0.75, 1.3), "warped": 0.5, "second": 0.3}
    known = {"data": {"rain": {"mist": 0.1} | as_before}}
    check_same_run(mixed, saved | known, "w")
    known["data"]["rain"]["unknown"] = 0.5
    with pytest.raises(
        UserError, match=r"configuration: config\.data\.rain\.unknown \(1\.0 there, 0"
    ):
        check_same_run(mixed, saved | known, "w")
    with pytest.raises(UserError, match=r"w holds a run .*optimizer\.learning_rate \(0\.01 there"):
        check_same_run(saved, small_config(optimizer__learning_rate=0.5).to_dict(), "w")


def test_a_key_of_the_network_is_named_once() -> None:
    saved = small_config().to_dict() | {"architecture": {"dim": 8}}
    config = small_config(model__dim=16).to_dict() | {"architecture": {"dim": 16}}
    with pytest.raises(UserError) as error:
        check_same_run(saved, config, "w")
    assert ": config.model.dim (8 there, 16 here); choose" in str(error.value)


def test_of_an_imported_run_only_what_it_tells_is_compared() -> None:
    imported = {"file": "92000.state", "ema": False, "rest": {"epoch": 3}}
    saved = {"optimizer": {"b1": 0.9}, "imported": imported, "architecture": {"dim": 8}}
    ours = {"architecture": {"dim": 8}}
    check_same_run(saved, small_config(seed=4).to_dict() | ours, "w")
    with pytest.raises(UserError) as error:
        check_same_run(saved, small_config(optimizer__b1=0.5, ema_decay=0.9).to_dict() | ours, "w")
    assert str(error.value).startswith(
        "w holds a run imported from 92000.state, of another configuration: config.ema_decay (no "
        "moving average there, 0.9 here), config.optimizer.b1 (0.9 there, 0.5 here); choose"
    )
