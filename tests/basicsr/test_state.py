"""Training states of the authors' program: read to the bit, and what is wrong is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.basicsr import SMALLEST, AuthorsRun, saved_run  # noqa: E402

from drsformer_jax.basicsr.state import read_moments, read_state  # noqa: E402
from drsformer_jax.models.config import DRSformerConfig  # noqa: E402
from drsformer_jax.parity.random_weights import random_weights  # noqa: E402

# Its tensors name the moments.
PARAMS = random_weights(SMALLEST, 0).params

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    run = AuthorsRun()
    run.step()
    run.step()
    return run.content()


def written(path: Path, content: dict[str, Any], change: Change) -> Path:
    """A file of `content` with a change; the original stays as it is."""
    optimizer = content["optimizers"][0]
    copy = {
        **content,
        "optimizers": [
            {
                "state": {key: dict(entry) for key, entry in optimizer["state"].items()},
                "param_groups": [dict(group) for group in optimizer["param_groups"]],
            }
        ],
    }
    change(copy)
    torch.save(copy, path)
    return path


def group(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizers"][0]["param_groups"][0]


def entries(content: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return content["optimizers"][0]["state"]


def test_moments_have_the_names_of_the_parameters(tmp_path):
    config = DRSformerConfig(dim=8, num_blocks=(1, 2, 1, 1), heads=(1, 2, 2, 4))
    run = AuthorsRun(config)
    run.step()
    run.step()
    state = read_state(run.save(tmp_path))
    assert (state.iteration, state.rest["epoch"]) == (2, 3)
    moments = read_moments(state, config, random_weights(config, 0).params)
    assert (moments.updates, moments.step_type, moments.notes) == (2, "float32", ())
    for tree, key in ((moments.mean, "exp_avg"), (moments.square, "exp_avg_sq")):
        found = from_tree(tree, config)
        for name, parameter in run.module.named_parameters():
            np.testing.assert_array_equal(found[name], run.optimizer.state[parameter][key].numpy())


def test_steps_of_old_versions_are_whole_numbers(tmp_path, content):
    def change(content: dict[str, Any]) -> None:
        for entry in entries(content).values():
            entry["step"] = 2

    moments = read_moments(
        read_state(written(tmp_path / "2.state", content, change)), SMALLEST, PARAMS
    )
    assert (moments.updates, moments.step_type) == (2, "int")


def test_half_precision_is_converted_and_said(tmp_path, content):
    def change(content: dict[str, Any]) -> None:
        for entry in entries(content).values():
            entry["exp_avg"] = entry["exp_avg"].bfloat16()

    moments = read_moments(
        read_state(written(tmp_path / "2.state", content, change)), SMALLEST, PARAMS
    )
    (note,) = moments.notes
    assert note.startswith("of the moments, 136 tensors of bfloat16 converted to float32")
    expected = content["optimizers"][0]["state"][0]["exp_avg"].bfloat16().float().numpy()
    found = from_tree(moments.mean, SMALLEST)["patch_embed.proj.weight"]
    np.testing.assert_array_equal(found, expected)


def set_group(**values: Any) -> Change:
    return lambda content: group(content).update(values)


def sgd(content: dict[str, Any]) -> None:
    module = torch.nn.Linear(2, 2)
    content["optimizers"] = [torch.optim.SGD(module.parameters(), 0.1, 0.9).state_dict()]


def adam(content: dict[str, Any]) -> None:
    # Built here, as only new versions of PyTorch write the key that tells Adam from AdamW.
    group(content)["decoupled_weight_decay"] = False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("iter"), "is not a training state .* it holds epoch, optimizers"),
        (lambda c: c.update(iter=0), "iter must be the number of finished steps, not 0"),
        (lambda c: c.update(iter=True), "iter must be the number of finished steps, not True"),
        (lambda c: c["optimizers"].append({}), "optimizers has 2 entries"),
        (lambda c: c.update(optimizers=7), "optimizers is not a list"),
        (
            lambda c: c["optimizers"][0]["param_groups"].append(dict(group(c))),
            "param_groups has 2 entries",
        ),
        (lambda c: c.update(schedulers=[{}, {}]), "schedulers must be a list with one"),
        (lambda c: c.update(schedulers=[3]), "is no state_dict"),
        (lambda c: entries(c).clear(), "no moments: it was saved before the first step"),
        (sgd, "its optimizer is not AdamW: it has lr, momentum, .* no betas"),
        (adam, "its optimizer is not AdamW but Adam, with a weight decay of 0.0001"),
        (set_group(amsgrad=True), "its AdamW uses amsgrad"),
        (set_group(maximize=True), "its AdamW uses maximize"),
        (set_group(params=[1, 0]), "are not numbered 0, 1, 2"),
        (set_group(lr=torch.tensor(0.1)), "AdamW's lr must be a number, not tensor"),
        (set_group(betas=(0.9, "x")), "AdamW's betas must be numbers"),
    ],
)
def test_what_is_no_state_of_adamw_is_refused(tmp_path, content, change, message):
    path = written(tmp_path / "2.state", content, change)
    with pytest.raises(UserError, match=message) as error:
        read_state(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def set_entry(key: str, value: Any) -> Change:
    return lambda content: entries(content)[3].update({key: value})


def one_nan(content: dict[str, Any]) -> None:
    moment = entries(content)[3]["exp_avg"].clone()
    moment.flatten()[0] = torch.nan
    entries(content)[3]["exp_avg"] = moment


FOURTH = r"encoder_level1\.0\.attn\.temperature"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: entries(c).pop(3), f"lacks step, exp_avg or exp_avg_sq of {FOURTH}"),
        (lambda c: entries(c)[3].pop("exp_avg_sq"), f"exp_avg or exp_avg_sq of {FOURTH}"),
        (lambda c: entries(c).update({500: {}}), "moments of parameters it does not have: .*500"),
        (set_entry("momentum_buffer", 1), "is not AdamW: it keeps momentum_buffer"),
        (set_entry("step", torch.tensor(1.0)), f"same for all .* {FOURTH} has 1"),
        (set_entry("step", "two"), f"step of {FOURTH} must be a number"),
        (set_entry("step", torch.tensor(2.5)), f"step of {FOURTH} must be a number"),
        (set_entry("exp_avg", torch.zeros(7)), f"{FOURTH} \\(7,\\) should be \\(1, 1, 1\\)"),
        (set_entry("exp_avg", [1.0]), f"no tensors .*: {FOURTH} \\(list\\)"),
        (set_entry("exp_avg", torch.zeros(1, 1, 1, dtype=torch.int32)), "not dense floating-point"),
        (one_nan, f"\\(exp_avg\\) has NaN or infinite values .*in {FOURTH}"),
        (set_entry("exp_avg_sq", -torch.ones(1, 1, 1)), f"negative values in {FOURTH}"),
        (set_group(params=list(range(9))), "has 9 parameters and the network 136"),
    ],
)
def test_bad_moments_are_named(tmp_path, content, change, message):
    state = read_state(written(tmp_path / "2.state", content, change))
    with pytest.raises(UserError, match=message) as error:
        read_moments(state, SMALLEST, PARAMS)
    assert str(state.path) in str(error.value)
    assert "\n" not in str(error.value)


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def test_files_that_are_something_else(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"9\.state: no such file"):
        read_state(Path("9.state"))
    network = saved_run(tmp_path, 1).parents[1] / "models" / "net_g_1.pth"
    with pytest.raises(UserError, match=r"not a training state .*: it holds weights"):
        read_state(network)
    torch.save([1, 2], "list.state")
    with pytest.raises(UserError, match="it holds nothing by name"):
        read_state(Path("list.state"))
    whole = written(tmp_path / "2.state", content, lambda c: None).read_bytes()
    Path("cut.state").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.state is truncated, damaged or not"):
        read_state(Path("cut.state"))
    torch.save({**content, "epoch": Malicious()}, "bad.state")
    with pytest.raises(UserError, match=r"bad\.state holds a Python object"):
        read_state(Path("bad.state"))
    assert not Path("pwned").exists()
