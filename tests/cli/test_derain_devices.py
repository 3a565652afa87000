"""`drsformer derain --devices N`: one picture on several devices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from reference.programs import environment

from drsformer_jax import Derainer
from drsformer_jax.checkpoints.weights import save_weights
from drsformer_jax.cli.main import main
from drsformer_jax.inference import memory
from drsformer_jax.models.config import PRESETS
from drsformer_jax.parity.random_weights import random_weights

TINY = PRESETS["tiny"]

# The command first, for it is what makes the devices; 40 rows are 16, 16, 8 and none of them. Its
# network is taken again, for what it has compiled.
PROGRAM = """
import functools, sys
from pathlib import Path
import jax, numpy as np
from PIL import Image
from drsformer_jax.cli.main import main
from drsformer_jax import Derainer

weights, photo, out = sys.argv[1:]
Derainer.load = functools.cache(Derainer.load)
assert main(["derain", photo, "-o", out, "--weights", weights, "--devices", "4"]) == 0
assert jax.local_device_count() == 4
unit = np.asarray(Image.open(photo)).astype(np.float32) / 255
one, four = (
    Derainer.load(Path(weights), devices=count).restore_float(unit) for count in (1, 4)
)
assert Derainer.load.cache_info().hits == 1
assert one.shape == four.shape == (37, 21, 3)
assert np.abs(one - unit).max() > 0.05
assert np.abs(one - four).max() <= 1e-5, np.abs(one - four).max()
written = np.asarray(Image.open(out + "/photo.png"))
assert np.abs(written - np.float32(255) * one).max() <= 0.5 + 255e-5
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (37, 21, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_four_devices_give_the_picture_of_one(photo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, random_weights(TINY, 3))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, (weights, photo, tmp_path / "out"))],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("count", ["0", "-1", "1000"])
def test_impossible_numbers_of_devices(
    count: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jax.devices()  # now that JAX runs, there are those that there are
    out = tmp_path / "out"
    assert main(["derain", str(photo), "-o", str(out), "--devices", count]) == 2
    assert not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("drsformer: error: --devices")


def test_only_the_network_can_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        Derainer(TINY, {}, restore=lambda _, image: image, devices=2)


def test_memory_is_that_of_a_band() -> None:
    """A quarter of the rows, and eight of the neighbours'."""
    part = memory.forward_bytes(TINY, 328, 64, devices=4)
    assert part == memory.forward_bytes(TINY, 96, 64)
    assert memory.largest_tile(TINY, memory.forward_bytes(TINY, 512, 512), devices=4) > 512


def test_devices_made_of_the_cpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_host_memory", lambda: 1000)
    assert memory.budget_bytes(4) == int(1000 * memory.MEMORY_SHARE) // 4
