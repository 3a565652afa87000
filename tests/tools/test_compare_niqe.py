"""The comparison of NIQE's models, against a library made up for the test."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import compare_niqe
from drsformer_jax.scores.niqe import half_size, niqe
from drsformer_jax.scores.niqe_model import packaged

# Imports what the real one does, and scores an image by its mean, reduced.
LIBRARY = """
import cv2
from scipy.ndimage.filters import convolve
from basicsr.metrics.metric_util import reorder_image, to_y_channel
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import METRIC_REGISTRY

def niqe(img, mu_pris_param, cov_pris_param, gaussian_window, block_size=96):
    assert block_size == 96
    assert mu_pris_param.shape == (1, 36)
    assert gaussian_window.shape == (7, 7)
    smooth = convolve(img, gaussian_window, mode="nearest")
    return imresize(smooth / 255, scale=0.5, antialiasing=True).mean() * 2.55

@METRIC_REGISTRY.register()
def calculate_niqe(img):
    raise AssertionError
"""


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    package = tmp_path / "library" / "basicsr"
    for name in ("metrics", "utils"):
        (package / name).mkdir(parents=True)
    np.savez(
        package / "metrics" / "niqe_pris_params.npz",
        mu_pris_param=packaged().mean[None],
        cov_pris_param=packaged().covariance,
        gaussian_window=np.full((7, 7), 1 / 49),
    )
    (package / "metrics" / "niqe.py").write_text(LIBRARY)
    (package / "utils" / "matlab_functions.py").write_text(
        "imresize = lambda plane, scale, antialiasing: plane[::2, ::2]\n"
    )
    return tmp_path / "library"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["compare_niqe.py", *map(str, arguments)])
    return compare_niqe.main()


def test_three_scores_an_image(
    sdist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (3, 96, 192, 1)).astype(np.uint8)
    images = np.repeat(noise, 3, axis=3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    before = set(sys.modules)
    assert run(monkeypatch, sdist, folder, folder) == 0
    assert not {name for name in set(sys.modules) - before if name.startswith(("basicsr", "cv2"))}
    printed = capsys.readouterr().out
    scores = np.array([niqe(image, packaged().mean, packaged().covariance) for image in images])
    ours = scores.mean()
    smooth = [
        ndimage.uniform_filter(plane[..., 0].astype(float), 7, mode="nearest") for plane in noise
    ]
    library = np.mean([plane[::2, ::2] for plane in smooth]) / 100
    expected = f"packaged model {ours:.3f}, authors' {ours:.3f}, BasicSR {library:.3f}"
    assert printed.count(expected) == 3
    assert "+0.000 on average, +0.000 to +0.000" in printed
    assert "Pearson 1.000, Spearman 1.000" in printed
    assert "all, 6 images" in printed
    exact = [np.mean(half_size(plane)) / 100 for plane in smooth]
    apart = max(abs(ours_ - exact_) for ours_, exact_ in zip(scores, exact, strict=True))
    assert printed.count(f"rounding errors: median {np.median(np.abs(scores - exact)):.1e}") == 3
    assert f"largest {apart:.1e}" in printed


def test_users_mistakes(
    sdist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, tmp_path / "nowhere", tmp_path) == 2
    assert "nowhere: no source distribution of BasicSR" in capsys.readouterr().err
    assert run(monkeypatch, sdist, tmp_path) == 2
    assert "no images in this folder" in capsys.readouterr().err
