"""TensorBoard's files without TensorFlow, and what a network has learned as numbers."""

from __future__ import annotations

import functools
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from reference.programs import environment

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import DRSformer, init_params
from drsformer_jax.models.mefc import EXPERTS, STEPS, Gate
from drsformer_jax.training.reporting import Reporter, Validation
from drsformer_jax.training.tensorboard import learned

TINY = DRSformerConfig(dim=8, num_blocks=(1, 2, 1, 1), heads=(1, 1, 1, 1))


def events_in(folder: Path) -> list[Any]:
    """All events of the one file in a folder: records of length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack_from("<Q", content)
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_a_run_without_tensorflow_has_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "tensorflow" else find(name)
    )
    log = Reporter(tmp_path, total_steps=10, first_step=0)
    log.parameters("| name |\n| all |")
    picture = np.full((4, 6, 3), 200, np.uint8)
    log.validation(5, Validation({"psnr": 31.5}, "fine", {"sides": picture}))
    log.learned(5, lambda: {"latent/temperature": 0.25})
    log.close()
    assert f"{tmp_path}/tensorboard, written by tensorboardX" in capsys.readouterr().out
    assert (tmp_path / "parameters.txt").read_text() == "| name |\n| all |\n"
    values = {
        value.tag: (event.step, value)
        for event in events_in(tmp_path / "tensorboard")
        for value in event.summary.value
    }
    assert {
        (tag, *(step, v.simple_value)) for tag, (step, v) in values.items() if v.simple_value
    } == {
        ("psnr", 5, 31.5),
        ("latent/temperature", 5, 0.25),
    }
    step, shown = values["sides"]
    assert (step, shown.image.height, shown.image.width) == (5, 4, 6)
    assert any(b"    | all |" in v.tensor.SerializeToString() for _, v in values.values())


def test_pytorch_is_not_imported_for_it(tmp_path: Path) -> None:
    program = (
        "import sys; from drsformer_jax.training import tensorboard as t; "
        f"t._WithoutTensorFlow({str(tmp_path)!r}).close(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)


def test_without_either_package_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    log = Reporter(tmp_path, total_steps=10, first_step=0)
    log.learned(5, lambda: pytest.fail("nobody reads it"))
    log.close()
    assert "pip install 'drsformer_jax[tensorboard]'" in capsys.readouterr().out
    assert not (tmp_path / "tensorboard").exists()


def test_learned_values_are_those_of_the_network() -> None:
    shapes = jax.eval_shape(functools.partial(init_params, TINY), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32), shapes)
    for level in ("encoder_level1", "encoder_level2"):
        params[level]["attn"]["attn2"][:] = 0.2
    params["latent"]["attn"]["temperature"][:] = 1
    params["encoder_level2"]["attn"]["attn2"][0] += 0.5
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    found = learned(TINY, params, image)
    assert found["encoder_level2/weight_of_top_2of3"] == pytest.approx(0.2 + 0.25)
    assert found["encoder_level1/weight_of_top_2of3"] == pytest.approx(0.2)
    assert found["latent/temperature"] == 1

    inside = (image[None] / np.float32(255)).transpose(0, 3, 1, 2)

    def gate_of(x: jax.Array) -> jax.Array:
        _, seen = DRSformer(TINY).apply(
            {"params": params}, x, capture_intermediates=lambda module, _: isinstance(module, Gate)
        )
        return seen["intermediates"]["encoder_level0"]["gate"]["__call__"][0][0]

    gate = jax.jit(gate_of)(inside)  # of the rest of the network nothing is computed
    told = [value for name, value in found.items() if name.startswith("encoder_level0/step")]
    assert len(told) == STEPS * EXPERTS
    np.testing.assert_allclose(told, np.ravel(gate), rtol=1e-5)
    assert found["encoder_level0/step2_average_pool"] == pytest.approx(float(gate[1, -1]), rel=1e-5)
    assert not any("step" in name for name in learned(TINY, params, None))
