"""Synthetic rain as a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.data.images import write_png
from drsformer_jax.data.synthetic.rendered import SyntheticRain
from drsformer_jax.errors import UserError


def image(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four photographs: number i holds image(100 + i)."""
    for i in range(4):
        write_png(tmp_path / f"{i:03d}.png", image(100 + i))
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def test_synthetic_rain_depends_on_seed_and_index_alone() -> None:
    cleans = [image(i, 40, 48) for i in range(3)]
    source = SyntheticRain(cleans, "heavy", seed=5, versions=2)
    assert len(source) == 6
    backwards = {i: source[i] for i in reversed(range(6))}
    again = SyntheticRain(cleans, "heavy", seed=5, versions=2)
    for i in range(6):
        pair = again[i]
        np.testing.assert_array_equal(pair["input"], backwards[i]["input"])
        np.testing.assert_array_equal(pair["target"], cleans[i % 3])
        assert (pair["input"] != pair["target"]).any()
    assert len({source[i]["name"] for i in range(6)}) == 6
    assert (source[0]["input"] != source[3]["input"]).any()
    other = SyntheticRain(cleans, "heavy", seed=6)
    assert (other[0]["input"] != source[0]["input"]).any()
    with pytest.raises(IndexError):
        source[6]


def test_synthetic_rain_renders_windows_of_large_photographs() -> None:
    clean = image(0, 40, 20)
    source = SyntheticRain([("a", clean)], "light", seed=0, versions=50, crop=24)
    starts = set()
    for i in range(50):
        pair = source[i]
        assert pair["input"].shape == pair["target"].shape == (24, 20, 3)
        starts.add(next(t for t in range(17) if np.array_equal(pair["target"], clean[t : t + 24])))
    assert len(starts) > 10


def test_over_a_folder(photographs: Path) -> None:
    source = SyntheticRain(photographs, "medium")
    assert len(source) == 4
    assert source[1]["name"] == "001"
    np.testing.assert_array_equal(source[1]["target"], image(101))
    truncate(photographs / "000.png")
    truncate(photographs / "003.png")
    with pytest.raises(UserError, match=r"000\.png.*003\.png"):
        SyntheticRain(photographs, "medium")


def test_synthetic_rain_refuses_nonsense(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torrential"):
        SyntheticRain([image(0)], "torrential")
    with pytest.raises(UserError, match="no clean photographs"):
        SyntheticRain([])
    with pytest.raises(UserError, match="no images"):
        SyntheticRain(tmp_path)
    with pytest.raises(UserError, match="positive"):
        SyntheticRain([image(0)], versions=0)
