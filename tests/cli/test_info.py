"""`drsformer info`: the same network in every form, and what is no network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.checkpoints.runs import TrainingCheckpoints
from drsformer_jax.checkpoints.weights import Weights, save_weights
from drsformer_jax.cli.main import main
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import param_shapes
from drsformer_jax.training.state import TrainState

TINY = PRESETS["tiny"]


@pytest.fixture
def weights() -> Weights:
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), param_shapes(TINY)
    )
    recipe = json.dumps({"name": "quick", "total_steps": 1234})
    return Weights(TINY, params, {"recipe": recipe, "licence": "CC0", "data": "x" * 500})


def told(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    report = path.with_name("info.json")
    assert main(["info", str(path), "--json", str(report)]) == 0
    return json.loads(report.read_text()), capsys.readouterr().out


def test_every_form_has_the_same_fingerprint(
    tmp_path: Path, weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    forms = {
        "a.safetensors": "safetensors file", "a.pth": "PyTorch file", "a": "converted checkpoint"
    }  # fmt: skip
    found = {}
    for name, form in forms.items():
        save_weights(tmp_path / name, weights)
        found[name], printed = told(tmp_path / name, capsys)
        assert found[name]["form"] == form
        assert found[name]["dtypes"] == ["float32"]
        assert found[name]["parameters"] == sum(found[name]["modules"].values()) == 279_922
        assert list(found[name]["modules"])[:3] == ["patch_embed", "encoder_level1", "down1_2"]
        assert TINY.summary() in printed
        assert "279,922 of float32" in printed
    assert len({one["fingerprint"] for one in found.values()}) == 1
    file = tmp_path / "a.safetensors"
    assert found[file.name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found[file.name]["bytes"] == file.stat().st_size
    assert found[file.name]["metadata"] == weights.metadata
    assert main(["info", str(file), "--arrays"]) == 0
    printed = capsys.readouterr().out
    for shown in ("CC0", "quick, 1,234 steps", "xxx...", "latent/attn/temperature"):
        assert shown in printed

    state = torch.load(tmp_path / "a.pth")
    state["params"]["output.weight"] = state["params"]["output.weight"].half()
    torch.save({**state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "state.pth")
    document, printed = told(tmp_path / "state.pth", capsys)
    assert "a training state: it also has epoch, optimizer" in printed
    assert document["dtypes"] == ["float16", "float32"]


def test_a_workdir_is_its_newest_step(
    tmp_path: Path, weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"name": "mine", "total_steps": 9, "architecture": TINY.architecture()}
    checkpoints = TrainingCheckpoints(tmp_path / "run", 2)
    for step in (3, 4):
        params = jax.tree.map(lambda leaf, step=step: jnp.array(leaf * step), weights.params)
        state = TrainState(jnp.int32(step), params, {"count": jnp.int32(0)}, params)
        checkpoints.save(state, {}, config, score=20.0 + step)
    checkpoints.close()
    document, printed = told(tmp_path / "run", capsys)
    assert document["form"] == "training workdir"
    assert document["metadata"]["step"] == "4"
    assert "24.00 dB in validation" in printed
    assert "mine, 9 steps" in printed
    assert "float32, averaged" in printed
    older, _ = told(tmp_path / "run" / "checkpoints" / "3", capsys)
    assert (older["form"], older["metadata"]["step"]) == ("step of a training workdir", "3")
    assert older["fingerprint"] != document["fingerprint"]
    # A report in the workdir is replaced when it is asked for again; what was read is not.
    run = tmp_path / "run"
    (run / "info.json").write_text("of before")
    assert main(["info", str(run), "--json", str(run / "info.json")]) == 0
    assert json.loads((run / "info.json").read_text()) == document
    read = run / "checkpoints" / "4" / "config" / "metadata"
    before = read.read_bytes()
    (tmp_path / "link").symlink_to(run)
    for weights_given, report in (
        (run, read),
        (read.parents[1], tmp_path / "link" / read.relative_to(run)),
    ):
        capsys.readouterr()
        assert main(["info", str(weights_given), "--json", str(report)]) == 2
        assert "would overwrite an input" in capsys.readouterr().err
        assert read.read_bytes() == before


def test_what_is_none_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pth").write_bytes(b"GGUF")
    assert main(["info", str(tmp_path / "a.pth")]) == 2
    error = capsys.readouterr().err
    assert "is a GGUF file" in error
    assert error.count("\n") == 1
