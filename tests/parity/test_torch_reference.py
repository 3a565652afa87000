"""The PyTorch side: a user's class, and what is read off a running program."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.small import TINY  # noqa: E402

from drsformer_jax.checkpoints.names import from_tree  # noqa: E402
from drsformer_jax.errors import UserError  # noqa: E402
from drsformer_jax.models.config import DRSformerConfig  # noqa: E402
from drsformer_jax.parity import torch_recording  # noqa: E402
from drsformer_jax.parity.random_weights import random_weights  # noqa: E402
from drsformer_jax.parity.recording import (  # noqa: E402
    RESTORED,
    Recording,
    decisions_of,
    loss_weights,
    probes_of,
)
from drsformer_jax.parity.torch_recording import (  # noqa: E402
    record,
    record_gradients,
    record_repeated,
)
from drsformer_jax.parity.torch_reference import build_reference, load_class  # noqa: E402

CONFIG = DRSformerConfig(**TINY)
TENSORS = from_tree(random_weights(CONFIG, 0).params, CONFIG)
IMAGE = np.random.default_rng(0).uniform(size=(1, 3, 16, 24))

# As the authors' class is called, and written with ReLUs that work in place.
REFERENCE = """
import torch
from neighbour import base

class Mine(base.DRSformer):
    def __init__(self, inp_channels=3, out_channels=3, dim=48, num_blocks=[4, 6, 6, 8],
                 heads=[1, 2, 4, 8], ffn_expansion_factor=2.66, bias=False,
                 LayerNorm_type='WithBias'):
        assert isinstance(num_blocks, list)
        super().__init__(inp_channels, out_channels, dim, num_blocks, heads,
                         ffn_expansion_factor, bias, LayerNorm_type)
        for module in self.modules():
            if isinstance(module, torch.nn.ReLU):
                module.inplace = True
"""


@pytest.fixture
def reference(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("import drsformer_jax.parity.torch_drsformer as base\n")
    (tmp_path / "arch.py").write_text(REFERENCE)
    return f"{tmp_path / 'arch.py'}:Mine"


def record_all(module) -> Recording:
    recording = record(module, CONFIG, IMAGE)
    record_gradients(recording, module, CONFIG, IMAGE)
    return recording


def test_a_class_like_the_authors(reference: str) -> None:
    module = build_reference(CONFIG, TENSORS, reference)
    assert type(module).__name__ == "Mine"
    assert not module.training
    mine, ours = record_all(module), record_all(build_reference(CONFIG, TENSORS))
    assert mine.outputs.keys() == {probe.name for probe in probes_of(CONFIG)}
    for values in ("outputs", "chosen", "active", "gradients"):
        found, expected = getattr(mine, values), getattr(ours, values)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-13, err_msg=name)


def test_what_is_kept() -> None:
    module = build_reference(CONFIG, TENSORS)
    kept = record_all(module)
    with torch.no_grad():
        expected = module(torch.from_numpy(IMAGE)).numpy()
    np.testing.assert_array_equal(kept.outputs[RESTORED], expected)
    np.testing.assert_allclose(kept.outputs["output"] + IMAGE, expected, atol=1e-15)
    chosen = kept.chosen["encoder_level2.1.attn"]
    assert chosen.shape == (4, 1, 2, 8, 8)
    assert chosen.sum(axis=-1)[:, 0, 0, 0].tolist() == [4, 5, 6, 6]
    relus = {decision.name for decision in decisions_of(CONFIG) if decision.kind == "ReLU"}
    assert kept.active.keys() == relus
    assert kept.gradients is not None
    assert list(kept.gradients) == list(TENSORS)


def test_gradients_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputing the blocks changes nothing, and leaves nothing behind."""
    module = build_reference(CONFIG, TENSORS)
    kept = record_all(module).gradients
    assert kept is not None
    assert all("forward" not in vars(part) for part in module.modules())
    loss = (module(torch.from_numpy(IMAGE)) * torch.from_numpy(loss_weights(IMAGE.shape))).sum()
    loss.backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_array_equal(kept[name], parameter.grad.numpy(), err_msg=name)


def test_a_choice_without_topk_is_not_shown() -> None:
    module = build_reference(CONFIG, TENSORS)
    attention = module.get_submodule("latent.0.attn")
    attention.forward = lambda x: torch.zeros_like(x)
    kept = record(module, CONFIG, IMAGE)
    assert "latent.0.attn" not in kept.chosen
    assert len(kept.chosen) == sum(probe.kind == "TKSA" for probe in probes_of(CONFIG)) - 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("arch.py", "FILE.py:CLASS"),
        ("arch.py:", "FILE.py:CLASS"),
        ("none.py:Mine", "none.py: no such file"),
        ("arch.py:Other", "has no class Other; it has Mine"),
        ("arch.txt:Mine", "not a Python file"),
        ("broken.py:Mine", "cannot be imported: SyntaxError"),
        ("missing.py:Mine", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("function.py:build", "is not a torch.nn.Module"),
        ("failing.py:Mine", "cannot be built: ValueError: no such thing"),
        ("other.py:Mine", "is not the network of the weights: it lacks patch_embed.proj.weight"),
    ],
)
def test_references_that_cannot_be_used(
    reference: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = "import torch\nclass Mine(torch.nn.Module):\n    "
    for name, text in {
        "arch.py": mine + "pass",
        "arch.txt": mine + "pass",
        "broken.py": "class Mine(",
        "missing.py": "import nowhere",
        "function.py": "def build(dim=1):\n    return dim",
        "failing.py": mine + "def __init__(self):\n        raise ValueError('no such\\n thing')",
        "other.py": mine + "pass",
    }.items():
        Path(name).write_text(text)
    with pytest.raises(UserError) as error:
        build_reference(CONFIG, TENSORS, reference)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_shapes_are_named() -> None:
    other = dataclasses.replace(CONFIG, ffn_expansion_factor=2.0)
    tensors = from_tree(random_weights(other, 0).params, other)
    with pytest.raises(UserError, match=r"other shapes encoder_level1.0.ffn.project_in.weight"):
        build_reference(CONFIG, tensors)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x[:, :1], r"does not return an image of shape \(1, 3, 16, 24\)"),
        (lambda x: [x], r"but list"),
        (lambda x: 1 / 0, r"fails on the image: ZeroDivisionError: division by zero"),
    ],
)
def test_programs_that_return_no_image(forward, message: str) -> None:
    module = build_reference(CONFIG, TENSORS)
    module.forward = forward
    with pytest.raises(UserError, match=message):
        record(module, CONFIG, IMAGE)


def in_turn(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[Recording]:
    """Has the runs give these values in a module; returns the recordings that are made."""
    made: list[Recording] = []

    def run(*_: object) -> Recording:
        value = np.array([values[len(made)]])
        made.append(Recording({"a": np.zeros(2), "b": value}, {"a": np.ones((1, 2), bool)}))
        return made[-1]

    monkeypatch.setattr(torch_recording, "record", run)
    return made


@pytest.mark.parametrize(
    ("values", "first_change"),
    [
        ([1.0, 1.0], None),
        ([np.nan, np.nan], None),
        ([1.0 + 1e-15, 1.0, 1.0], "b"),
        ([-0.0, 0.0, 0.0], "b"),
        ([1.0, 2.0, 1.0, 1.0], None),
        ([3.0, 2.0, 1.0, 4.0, 4.0], "b"),
    ],
)
def test_the_reference_is_run_until_two_runs_agree(monkeypatch, values, first_change) -> None:
    made = in_turn(monkeypatch, values)
    kept, name = record_repeated(torch.nn.Identity(), CONFIG, IMAGE)
    assert kept is made[-1]
    assert len(made) == len(values)
    assert name == first_change


def test_a_reference_that_never_repeats_itself_is_refused(monkeypatch) -> None:
    made = in_turn(monkeypatch, [1.0, 2.0, 1.0, 2.0, 1.0, 1.0])
    with pytest.raises(UserError, match=r"does not repeat itself: in 5 runs .* from b on"):
        record_repeated(torch.nn.Identity(), CONFIG, IMAGE)
    assert len(made) == torch_recording.RUNS_AT_MOST


def test_load_class_finds_the_class(reference: str) -> None:
    assert load_class(reference).__name__ == "Mine"
