"""`drsformer parity` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.checkpoints.weights import save_weights
from drsformer_jax.cli.main import main
from drsformer_jax.data.images import write_png
from drsformer_jax.models.config import PRESETS
from drsformer_jax.parity.random_weights import random_weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

MUTANT = """
from drsformer_jax.parity import torch_drsformer

class Faulty(torch_drsformer.DRSformer):
    def __init__(self, dim, num_blocks, heads, use_mefc):
        super().__init__(dim=dim, num_blocks=num_blocks, heads=heads, use_mefc=use_mefc)
        self.up3_2.body[0].register_forward_hook(lambda module, inputs, output: output * 1.001)
"""


# A first forward that is beyond tolerance, and none that agrees with the one before.
UNSTEADY = """
from drsformer_jax.parity import torch_drsformer

class First(torch_drsformer.DRSformer):
    runs = 0

    def __init__(self, dim, num_blocks, heads, use_mefc):
        super().__init__(dim=dim, num_blocks=num_blocks, heads=heads, use_mefc=use_mefc)
        self.up3_2.body[0].register_forward_hook(self.disturb)

    def disturb(self, module, inputs, output):
        self.runs += 1
        return output * 1.001 if self.runs == 1 else output

class Always(First):
    def disturb(self, module, inputs, output):
        self.runs += 1
        return output * (1 + self.runs / 1000)
"""


def parity(*arguments: object) -> int:
    return main(["parity", *map(str, arguments)])


def test_a_checkpoint_a_photograph_and_a_report(tmp_path: Path, capsys) -> None:
    weights, image = tmp_path / "w.safetensors", tmp_path / "photo.png"
    save_weights(weights, random_weights(PRESETS["tiny"], 3))
    write_png(image, np.random.default_rng(0).integers(0, 256, (13, 18, 3), np.uint8))
    report = tmp_path / "report.json"
    assert parity("--weights", weights, "--image", image, "--json", report) == 0
    output = capsys.readouterr().out
    assert "PASS: 39 modules within 1e-05" in output
    assert f"image      16x24, {image}" in output
    document = json.loads(report.read_text())
    assert document["passed"] is True
    assert document["gradients"] == []
    assert document["settings"]["dtype"] == "float32"


def test_a_report_is_written_over_nothing_that_is_read(tmp_path: Path, capsys) -> None:
    weights, image, arch = (tmp_path / name for name in ("w.pth", "photo.png", "arch.py"))
    read = ["--weights", weights, "--image", image, "--reference", f"{arch}:Net"]
    (tmp_path / "linked").symlink_to(".")
    for file in (weights, image, arch):
        file.write_text("mine")
        assert parity(*read, "--json", tmp_path / "linked" / file.name) == 2
        assert "would overwrite an input" in capsys.readouterr().err
        assert file.read_text() == "mine"


def test_a_faulty_reference_is_found(tmp_path: Path, capsys) -> None:
    (tmp_path / "arch.py").write_text(MUTANT)
    weights, image = tmp_path / "w.safetensors", tmp_path / "photo.png"
    save_weights(weights, random_weights(PRESETS["tiny"], 3))
    write_png(image, np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    reference = f"{tmp_path / 'arch.py'}:Faulty"
    arguments = ("--weights", weights, "--image", image, "--reference", reference)
    assert parity(*arguments) == 1
    output = capsys.readouterr().out
    assert " of 39 modules beyond 1e-05; the first is up3_2 (up-sampling): max abs" in output
    assert f"reference  {reference}; PyTorch" in output
    assert "first run" not in output
    assert parity(*arguments, "--tolerance", 0.1) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "random:x"], "--weights random:x: the seed must be a whole number"),
        (["--weights", f"random:{'9' * 5000}"], "the seed must be a whole number"),
        (["--weights", "random:0", "--preset", "huge"], "--preset huge: is not one of drsformer"),
        (["--weights", "none.pth"], "none.pth: no such file or folder"),
        (["--weights", "random:0", "--tolerance", "0"], "--tolerance must be positive"),
        (["--weights", "random:0", "--tolerance", "nan"], "--tolerance must be positive"),
        (["--weights", "random:0", "--json", "no/x.json"], "--json no/x.json: there is no folder"),
        (["--weights", "random:0", "--preset", "tiny", "--image", "no.png"], "no.png"),
        (
            ["--weights", "random:0", "--preset", "tiny", "--reference", "no.py:X"],
            "--reference: no.py: no such file",
        ),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert parity(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_preset_goes_with_random_weights_only(tmp_path: Path, capsys) -> None:
    save_weights(tmp_path / "w.safetensors", random_weights(PRESETS["tiny"], 3))
    assert parity("--weights", tmp_path / "w.safetensors", "--preset", "tiny") == 2
    assert "--preset goes with --weights random:SEED" in capsys.readouterr().err


def test_a_reference_whose_first_run_is_another_passes_and_it_is_said(tmp_path, capsys) -> None:
    (tmp_path / "arch.py").write_text(UNSTEADY)
    weights, image = tmp_path / "w.safetensors", tmp_path / "photo.png"
    save_weights(weights, random_weights(PRESETS["tiny"], 3))
    write_png(image, np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    arguments = ("--weights", weights, "--image", image)
    assert parity(*arguments, "--reference", f"{tmp_path / 'arch.py'}:First") == 0
    output = capsys.readouterr().out
    assert "The reference's first run had other bits than its later ones, from up3_2 on" in output
    assert "PASS: 39 modules" in output
    assert parity(*arguments, "--reference", f"{tmp_path / 'arch.py'}:Always") == 2
    error = capsys.readouterr().err
    assert error.startswith("drsformer: error: the reference does not repeat itself: in 5 runs")
    assert error.count("\n") == 1


def test_what_is_said_of_reading_the_weights(tmp_path, capsys) -> None:
    from drsformer_jax.cli.parity import _weights

    tensors = from_tree(random_weights(PRESETS["tiny"], 3).params, PRESETS["tiny"])
    named = {f"net_g.{name}": torch.from_numpy(array) for name, array in tensors.items()}
    torch.save({"net": named}, tmp_path / "net.ckpt")
    assert _weights(str(tmp_path / "net.ckpt"), None).config == PRESETS["tiny"]
    assert f"net.ckpt: took 'net_g.' off {len(named)} of " in capsys.readouterr().err
