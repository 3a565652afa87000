"""NIQE's pristine model: what is packaged, how one is estimated, files that are none."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from drsformer_jax.errors import UserError
from drsformer_jax.scores.niqe import block_features
from drsformer_jax.scores.niqe_model import (
    PACKAGED,
    PristineModel,
    estimate,
    load,
    packaged,
    save,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four images of 4 x 4 blocks of noise, the last block row smoother than the rest."""
    folder = tmp_path_factory.mktemp("clean")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = rng.normal(128, 30, (384, 384, 3))
        image[288:] = 128 + (image[288:] - 128) / 3
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def test_the_packaged_model() -> None:
    model = packaged()
    assert model.mean.shape == (36,)
    assert model.covariance.shape == (36, 36)
    assert model.mean.dtype == model.covariance.dtype == np.float64
    np.testing.assert_array_equal(model.covariance, model.covariance.T)
    assert np.linalg.eigvalsh(model.covariance).min() > 0
    assert model.metadata["images"] == "200"
    assert int(model.metadata["blocks"]) > 500
    for word in ("Rain100L", "train/target", "BSDS"):
        assert word in model.metadata["origin"]


def test_the_packaged_model_is_installed_with_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = ROOT / "drsformer_jax"
    globs = settings["tool"]["setuptools"]["package-data"]["drsformer_jax"]
    shipped = {path for pattern in globs for path in package.glob(pattern)}
    assert PACKAGED in shipped
    assert shipped >= set(package.rglob("*.safetensors"))


def test_only_sharp_blocks_count(photographs: list[Path]) -> None:
    model = estimate(photographs, "noise")
    assert model.metadata == {"images": "4", "blocks": "48", "origin": "noise"}
    sharp = np.concatenate(
        [block_features(np.asarray(Image.open(path))).values[:12] for path in photographs]
    )
    np.testing.assert_allclose(model.mean, sharp.mean(axis=0), rtol=1e-12)
    centred = sharp - sharp.mean(axis=0)
    np.testing.assert_allclose(model.covariance, centred.T @ centred / 47, rtol=1e-9, atol=1e-15)


def test_a_model_survives_its_file(photographs: list[Path], tmp_path: Path) -> None:
    model = estimate(photographs, "noise")
    save(tmp_path / "model.safetensors", model)
    back = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(back.mean, model.mean)
    np.testing.assert_array_equal(back.covariance, model.covariance)
    assert back.metadata == model.metadata


def test_what_no_model_can_be_estimated_from(photographs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="12 sharp blocks in 1 images are too few"):
        estimate(photographs[:1], "")
    with pytest.raises(UserError, match="0 sharp blocks in 0 images"):
        estimate([], "")
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=r"small.png: NIQE needs two blocks"):
        estimate([tmp_path / "small.png"], "")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match=r"model.safetensors: no model of NIQE"):
        load(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"model.safetensors: no model of NIQE"):
        load(file)
    save_file({"mean": np.zeros(36)}, file)
    with pytest.raises(UserError, match=r"model.safetensors: no model of NIQE"):
        load(file)
    save_file({"mean": np.zeros(35), "covariance": np.eye(35)}, file)
    with pytest.raises(UserError, match=r"36 features, .* shapes \(35,\) and \(35, 35\)"):
        load(file)
    save_file({"mean": np.full(36, np.nan), "covariance": np.eye(36)}, file)
    with pytest.raises(UserError, match="not finite"):
        load(file)
    with pytest.raises(ValueError, match="36 features"):
        PristineModel(np.zeros(36), np.eye(35))


@pytest.mark.slow
def test_the_packaged_model_can_be_made_again(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "rain100l" / "train" / "target"
    model = estimate(sorted(folder.glob("*.png")), "")
    np.testing.assert_allclose(model.mean, packaged().mean, rtol=1e-9)
    np.testing.assert_allclose(model.covariance, packaged().covariance, rtol=1e-6, atol=1e-12)
    assert model.metadata["blocks"] == packaged().metadata["blocks"]
