"""What the network looks at, and the figure of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from parity.fixture_files import Fixture, load_fixture
from PIL import Image

from drsformer_jax.checkpoints.names import to_tree
from drsformer_jax.checkpoints.weights import Weights, save_weights
from drsformer_jax.cli.main import main
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation import explanation
from drsformer_jax.evaluation.explanation import Explanation, explain
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.recording import RESTORED

# What PyTorch computed for one image, with two blocks in a level and both compensators.
FIXTURE = Path(__file__).parents[1] / "parity" / "fixtures" / "everything.npz"


@pytest.fixture(scope="module")
def torch() -> Fixture:
    return load_fixture(FIXTURE)


@pytest.fixture(scope="module")
def weights(torch: Fixture) -> Weights:
    return Weights(torch.config, to_tree(torch.tensors, torch.config))


@pytest.fixture(scope="module")
def found(torch: Fixture, weights: Weights) -> Explanation:
    image = np.float32(torch.image[0].transpose(1, 2, 0))
    # Anything but a multiple of 8 would be another image.
    assert image.shape[0] % 8 == image.shape[1] % 8 == 0
    with pytest.MonkeyPatch.context() as patch:
        # As quickly compiled as all else here.
        patch.setattr(explanation, "compiled_for_inference", jax.jit)
        return explain(weights.config, weights.params, image)


def test_it_is_the_restored_image(found: Explanation, torch: Fixture) -> None:
    restored = torch.recording.outputs[RESTORED][0].transpose(1, 2, 0).clip(0, 1)
    np.testing.assert_allclose(found.restored, restored, atol=1e-4)
    removed = np.abs(torch.image[0].transpose(1, 2, 0) - restored).mean(axis=2)
    np.testing.assert_allclose(found.removed, removed, atol=1e-4)


def test_choices_are_those_of_every_block(
    found: Explanation, torch: Fixture, weights: Weights
) -> None:
    chosen = torch.recording.chosen
    assert [f"{block.level}.{block.index}.attn" for block in found.blocks] == list(chosen)
    for block, masks in zip(found.blocks, chosen.values(), strict=True):
        np.testing.assert_array_equal(block.branches, masks[:, 0].sum(axis=0))
        np.testing.assert_array_equal(masks[:, 0].sum(axis=-1)[:, 0, 0], block.sizes)
        assert len(block.temperatures) == len(block.branches)
        assert sum(block.shares(0)) == pytest.approx(1)
    second = next(b for b in found.blocks if (b.level, b.index) == ("encoder_level2", 1))
    attention = weights.params["encoder_level2"]["attn"]
    np.testing.assert_array_equal(second.temperatures, attention["temperature"][1].ravel())
    assert second.branch_weights[3] == attention["attn4"][1]


def test_experts_share_each_step(found: Explanation, torch: Fixture) -> None:
    logits = {k: v for k, v in torch.recording.outputs.items() if k.endswith("ca_fc")}
    assert list(found.gates) == [name.split(".")[0] for name in logits]
    for gate, logit in zip(found.gates.values(), logits.values(), strict=True):
        exponentials = np.exp(logit.reshape(4, 8))
        expected = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(gate, expected, atol=1e-5)


def test_an_image_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation.memory, "budget_bytes", lambda: 2**25)
    with pytest.raises(UserError, match=r"900 x 800 pixels at once .* cut out a part") as caught:
        explain(DRSformerConfig(), {}, np.zeros((800, 900, 3), np.float32))
    assert "--tile" not in str(caught.value)


@pytest.mark.parametrize("use_mefc", [True, False])
def test_a_figure_by_command(
    use_mefc: bool, found: Explanation, weights: Weights, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib", reason="the figure is drawn by matplotlib (extra: explain)")
    shown = found if use_mefc else dataclasses.replace(found, gates={})
    monkeypatch.setattr(explanation, "explain", lambda *given: shown)
    monkeypatch.chdir(tmp_path)
    Image.new("L", (22, 13), 100).save("a photo.jpg")
    save_weights("w.safetensors", weights)
    command = ["explain", "a photo.jpg", "--weights", "w.safetensors"]
    assert main([*command, "--json", "numbers.json"]) == 0
    assert capsys.readouterr().out == "a photo.explained.png\n"
    with Image.open("a photo.explained.png") as figure:
        assert figure.width == 1540
    document = json.loads(Path("numbers.json").read_text())
    assert len(document["blocks"]) == 9
    assert document["experts"][-1:] == (["average_pool"] if use_mefc else [])
    assert document["weights"] == "w.safetensors"
    for flags, told in (
        (["-o", "figure.jpeg"], "name a file that ends in .png, .pdf, .svg"),
        (["-o", "none/figure.svg"], "there is no folder none"),
        (["--json", "a photo.jpg"], "would overwrite an input"),
        (["-o", "a.svg", "--json", "./a.svg"], "-o and --json both name a.svg"),
    ):
        assert main([*command, *flags]) == 2
        assert told in capsys.readouterr().err


def test_names_of_photographs_as_people_have_them(
    found: Explanation, weights: Weights, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib", reason="the figure is drawn by matplotlib (extra: explain)")
    monkeypatch.setattr(explanation, "explain", lambda *given: found)
    monkeypatch.chdir(tmp_path)
    save_weights("w.safetensors", weights)
    # No formula, and the longest that a file may have.
    for stem, code in ((r"$\frac$", 0), ("x" * 251, 2)):
        Image.new("L", (22, 13), 100).save(f"{stem}.png")
        assert main(["explain", f"{stem}.png", "--weights", "w.safetensors"]) == code
        assert Path(f"{stem[:99]}.explained.png").exists() == (code == 0)
    told = capsys.readouterr().err
    assert told.startswith(f"drsformer: error: -o {stem}.explained.png: cannot be written (")
    assert told.endswith("): give another name\n")
