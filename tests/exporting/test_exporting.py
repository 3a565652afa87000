"""Exported networks: any size from one file, the pixels of ours, and only what was checked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from drsformer_jax import Derainer
from drsformer_jax.checkpoints.weights import Weights, save_weights
from drsformer_jax.cli import main as cli
from drsformer_jax.errors import UserError
from drsformer_jax.exporting import checked, programs
from drsformer_jax.inference.exported import FORMAT
from drsformer_jax.models import drsformer
from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.parity.random_weights import random_weights

TINY = PRESETS["tiny"]
FORMS = ("stablehlo", "onnx")
# Height and width. What is exported is checked at one before it gets its name, and looked at here
# at both. Other tests compile the network for them.
CHECKED, OTHER = (40, 56), (16, 24)

# What somebody runs who has JAX and not this package.
CONSUMER = """
import sys
import jax, numpy as np
sys.modules["drsformer_jax"] = None
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], program.call(np.load(sys.argv[2])))
"""


def network() -> Weights:
    return Weights(TINY, random_weights(TINY, 3).params, {"data": "none"})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with weights, and with what `drsformer export` makes of them."""
    folder = tmp_path_factory.mktemp("exported")
    save_weights(folder / "w.safetensors", network())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checked, "SIZES", (CHECKED,))
        for form in FORMS:
            names = [str(folder / f"w.{suffix}") for suffix in ("safetensors", form)]
            assert cli.main(["export", *names]) == 0
        yield folder


@pytest.fixture(scope="module")
def ours(exported: Path) -> Derainer:
    return Derainer.load(exported / "w.safetensors")


# The other program is seen at the other size below.
@pytest.mark.parametrize(("form", "size"), [("stablehlo", CHECKED), ("onnx", OTHER)])
def test_photographs_of_any_size_are_those_of_the_network(
    exported: Path, ours: Derainer, form: str, size: tuple[int, int]
) -> None:
    shape = (size[0] - 3, size[1] - 5, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8) / np.float32(255)
    theirs = Derainer.load(exported / f"w.{form}")
    np.testing.assert_allclose(theirs.restore_float(image), ours.restore_float(image), atol=1e-6)


def test_a_program_runs_where_only_jax_is(exported: Path, ours: Derainer, tmp_path: Path) -> None:
    image = np.random.default_rng(1).random((1, *OTHER, 3), np.float32)
    np.save(tmp_path / "in.npy", image)
    files = [exported / "w.stablehlo", tmp_path / "in.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", CONSUMER, *map(str, files)], check=True)
    expected = ours.restore_float(image[0])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy")[0].clip(0, 1), expected, atol=1e-6)


def test_it_says_what_it_is(exported: Path) -> None:
    import onnx

    beside = json.loads((exported / "w.stablehlo.json").read_text())
    inside = {x.key: x.value for x in onnx.load(exported / "w.onnx").metadata_props}
    for told in (beside, inside):
        assert json.loads(told["architecture"])["dim"] == 8
        assert told["data"] == "none"
        assert "multiples of 8" in told["padding"]
        assert told["size"] == "dynamic"
    assert beside["fingerprint"] == inside["fingerprint"]


@pytest.fixture
def simple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the network, ours and the one that is exported: every value times one number."""

    def restore(config: DRSformerConfig, params: Any, image: jax.Array) -> jax.Array:
        return image * jnp.abs(params["output"]["kernel"]).mean()

    monkeypatch.setattr(drsformer, "restore", restore)


def test_what_computes_something_else_is_not_written(
    tmp_path: Path, simple: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other(path: Path, weights: Weights, size: Any) -> None:
        other = jax.tree.map(lambda x: x * np.float32(1.001), weights.params)
        programs.write_stablehlo(path, Weights(weights.config, other), size)

    monkeypatch.setitem(programs.WRITERS, ".stablehlo", write_other)
    with pytest.raises(UserError, match=r"w\.stablehlo: not written: it would differ by"):
        checked.export_network(tmp_path / "w.stablehlo", network(), OTHER)
    assert list(tmp_path.iterdir()) == []


def test_a_choice_that_rounding_decides_is_no_fault(
    tmp_path: Path,
    simple: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first noise, and the photograph, fall otherwise."""
    whole = checked.Derainer.restore_float
    calls = iter(range(100))

    def restore_float(derain: Derainer, image: np.ndarray, **options: Any) -> np.ndarray:
        first_of_two = next(calls) in (0, 4)
        return whole(derain, image, **options) + (1e-3 if first_of_two else 0)

    monkeypatch.setattr(checked.Derainer, "restore_float", restore_float)
    save_weights(tmp_path / "w.safetensors", network())
    Image.new("RGB", (24, 16), "grey").save(tmp_path / "photo.png")
    names = [str(tmp_path / name) for name in ("w.safetensors", "w.stablehlo", "photo.png")]
    assert cli.main(["export", *names[:2], "--size", "16x24", "--check", names[2]]) == 0
    told = capsys.readouterr().out
    assert "image: differs from ours by 1.0e-03" in told
    assert "rounding decides between them" in told


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("form", "harm", "complaint"),
    [
        ("stablehlo", damage, r"is not the file that w\.stablehlo\.json is about"),
        ("stablehlo", lambda path: Path(f"{path}.json").unlink(), "beside it says what it is"),
        ("stablehlo", lambda path: Path(f"{path}.json").write_text("[]"), "was not written by"),
        ("onnx", damage, "onnxruntime cannot read it"),
        ("onnx", lambda path: path.unlink(), "no such file"),
    ],
)
def test_what_is_none_of_ours_is_one_line(
    exported: Path, tmp_path: Path, form: str, harm: Callable[[Path], object], complaint: str
) -> None:
    for file in exported.glob(f"w.{form}*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    harm(tmp_path / f"w.{form}")
    with pytest.raises(UserError, match=complaint):
        Derainer.load(tmp_path / f"w.{form}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 100_000, "w.stablehlo.json beside it says what it is, and cannot be read"),
        (json.dumps({"format": FORMAT}), "does not say what network it is"),
        (json.dumps({"format": FORMAT, "architecture": 5}), "does not say what network it is"),
        (json.dumps({"format": FORMAT, "architecture": "[" * 100_000}), "does not say what"),
        (json.dumps({"format": FORMAT, "architecture": "[]"}), "a network that cannot be built"),
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "w.stablehlo").touch()
    (tmp_path / "w.stablehlo.json").write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        Derainer.load(tmp_path / "w.stablehlo")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("w.safetensors w.tflite", "end the name in .stablehlo or .onnx"),
        ("w.safetensors w.onnx", "w.onnx exists: give another name, or --force"),
        (f"w.safetensors {'x' * 245}.stablehlo", ".stablehlo.json: cannot be written ("),
        ("w.safetensors none/x.onnx", "OUT none/x.onnx: there is no folder"),
        ("w.stablehlo x.onnx", "w.stablehlo is an exported network: name the weights"),
        ("w.safetensors x.onnx --size 20x16", "--size 20x16: must be HxW, multiples of 8"),
        (f"w.safetensors x.onnx --size 8x{'8' * 5000}", ": must be HxW, multiples of 8"),
        ("w.safetensors x.onnx --check none.png", "none.png: no such file"),
        ("x.safetensors x.onnx", "did you mean"),
    ],
)
def test_mistakes(
    exported: Path,
    arguments: str,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(exported)
    before = sorted(exported.iterdir())
    assert cli.main(["export", *arguments.split()]) == 2
    assert complaint in capsys.readouterr().err
    assert sorted(exported.iterdir()) == before


def test_one_size_alone_refuses_others(tmp_path: Path, simple: None) -> None:
    found = checked.export_network(tmp_path / "w.stablehlo", network(), OTHER)
    assert list(found) == ["16x24"]
    derain = Derainer.load(tmp_path / "w.stablehlo")
    assert derain(np.zeros((15, 20, 3), np.uint8)).shape == (15, 20, 3)
    with pytest.raises(UserError, match="takes 16x24 pixels"):
        derain(np.zeros((24, 24, 3), np.uint8))
    with pytest.raises(UserError, match="--devices"):
        Derainer.load(tmp_path / "w.stablehlo", devices=2)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("use_mefc", [False, True])
def test_the_papers_networks(tmp_path: Path, form: str, use_mefc: bool) -> None:
    config = DRSformerConfig(use_mefc=use_mefc)
    weights = Weights(config, drsformer.init_params(config, jax.random.key(3)), {})
    found = checked.export_network(tmp_path / f"w.{form}", weights, None)
    assert len(found) == 2
