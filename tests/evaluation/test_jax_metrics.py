"""The metrics in JAX against those in float64 NumPy, which the papers' programs confirm."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.data.images import read_rgb
from drsformer_jax.evaluation import jax_metrics, metrics
from drsformer_jax.evaluation.protocols import PROTOCOLS
from drsformer_jax.inference.derainer import quantise

ALL = tuple(PROTOCOLS)
WITH_SSIM = tuple(name for name, protocol in PROTOCOLS.items() if protocol.has_ssim)

# A few steps of float32 at 16 to 64 dB, and just below 1.
PSNR_TOLERANCE = 8e-6
SSIM_TOLERANCE = 2e-7

psnr = jax.jit(jax_metrics.psnr, static_argnums=2)
ssim = jax.jit(jax_metrics.ssim, static_argnums=2)


def random_pairs(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies and images with some structure, uint8 (*shape, 3)."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[-2]) * 3, np.arange(shape[-1]) * 2)[..., None] % 256
    target = (ramp // 2 + rng.integers(0, 128, (*shape, 3))).astype(np.uint8)
    noise = rng.integers(-30, 31, target.shape)
    return np.clip(target + noise, 0, 255).astype(np.uint8), target


def assert_agree(restored: np.ndarray, target: np.ndarray, protocol: str) -> None:
    """Scores of uint8 (B, H, W, 3) are those of `metrics`, image by image."""
    pairs = list(zip(restored, target, strict=True))
    expected = [metrics.psnr(x, y, protocol) for x, y in pairs]
    scores = psnr(restored, target, protocol)
    assert scores.shape == (len(pairs),)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=PSNR_TOLERANCE)
    scores = ssim(restored, target, protocol)
    if protocol not in WITH_SSIM:
        assert scores is None
        return
    expected = [metrics.ssim(x, y, protocol) for x, y in pairs]
    assert scores.shape == (len(pairs),)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=SSIM_TOLERANCE)


@pytest.mark.parametrize("size", [(11, 11), (17, 24)])
@pytest.mark.parametrize("protocol", ALL)
def test_agrees_with_numpy(protocol: str, size: tuple[int, int]) -> None:
    assert_agree(*random_pairs(3, *size), protocol)


# Factors 2, 2 and 4; 3 has a window that reaches equally far on both sides.
@pytest.mark.parametrize("size", [(385, 641), (767, 513), (640, 643), (896, 901)])
def test_did_ddn_shrinks_large_images_for_ssim(size: tuple[int, int]) -> None:
    assert_agree(*random_pairs(1, *size), "did_ddn")


@pytest.mark.parametrize("size", [(385, 641), (640, 643)])
def test_did_ddn_mirrors_borders(size: tuple[int, int]) -> None:
    """Images that differ in their outermost pixels only: elsewhere borders hardly count."""
    restored, target = np.full((2, 1, *size, 3), 128, np.uint8)
    noise, _ = random_pairs(1, *size)
    for edge in (0, -1):
        restored[:, edge], restored[:, :, edge] = noise[:, edge], noise[:, :, edge]
    assert_agree(restored, target, "did_ddn")


def test_values_of_the_papers_programs(shared_dir: Path) -> None:
    """Rainy input against target, as the papers' MATLAB programs score them under GNU Octave."""
    with (shared_dir / "goldens" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    same_size = defaultdict(list)
    for row in rows:
        folder = shared_dir / "data" / row["set"]
        rainy, target = (read_rgb(folder / part / row["name"]) for part in ("input", "target"))
        same_size[target.shape].append((rainy, target, row))
    for group in same_size.values():
        rainy, target = (np.stack(images) for images in list(zip(*group, strict=True))[:2])
        for protocol in ALL:
            assert_agree(rainy, target, protocol)
        for protocol in WITH_SSIM:
            for name, score, tolerance in (
                ("psnr", psnr, PSNR_TOLERANCE),
                ("ssim", ssim, SSIM_TOLERANCE),
            ):
                expected = [float(row[f"{protocol}_{name}"]) for _, _, row in group]
                scores = score(rainy, target, protocol)
                np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)


def test_rounds_exact_halves_up() -> None:
    # Y is 52.5 (twice), 125.5 and 198.5: rounding to even, or downwards, gets some of them wrong.
    halves = np.array([[35, 47, 39], [50, 38, 46], [120, 132, 124], [205, 217, 209]], np.uint8)
    black = np.zeros((4, 1, 1, 3), np.uint8)
    expected = 20 * np.log10(255 / (np.array([53, 53, 126, 199]) - 16))
    scores = psnr(halves.reshape(black.shape), black, "rain200")
    np.testing.assert_allclose(scores, expected, rtol=0, atol=PSNR_TOLERANCE)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floats_are_stored_as_restored_images_are(dtype: jnp.dtype) -> None:
    """The slightest disagreement about a byte would make these scores finite."""
    rng = np.random.default_rng(0)
    halves = (np.arange(-3, 258) + 0.5) / 255
    values = np.concatenate([halves, np.arange(256) / 255, rng.uniform(-0.2, 1.2, 983)])
    image = jnp.asarray(values.reshape(1, 20, 25, 3), dtype)
    stored = quantise(np.asarray(image.astype(jnp.float32)))
    for restored, target in [(image, stored), (stored, image), (image, image)]:
        assert np.isposinf(psnr(restored, target, "basicsr"))
        assert ssim(restored, target, "did_ddn") == 1


@pytest.mark.parametrize("protocol", ALL)
def test_identical_images(protocol: str) -> None:
    restored, target = random_pairs(2, 20, 20)
    restored[1] = target[1]
    scores = psnr(restored, target, protocol)
    assert np.isfinite(scores[0])
    assert np.isposinf(scores[1])
    if protocol in WITH_SSIM:
        scores = ssim(restored, target, protocol)
        assert scores[0] < 1
        assert scores[1] == 1


@pytest.mark.parametrize("protocol", WITH_SSIM)
def test_ssim_of_faint_texture_on_white(protocol: str) -> None:
    """Variances here are 1e-5 of the squared means: float32 moments would lose them."""
    rng = np.random.default_rng(0)
    restored, target = rng.integers(250, 256, (2, 1, 64, 64, 3)).astype(np.uint8)
    expected = metrics.ssim(restored[0], target[0], protocol)
    assert ssim(restored, target, protocol) == pytest.approx(expected, abs=SSIM_TOLERANCE)


def test_an_image_that_is_not_finite_scores_nan() -> None:
    restored, target = (images.astype(np.float32) / 255 for images in random_pairs(3, 16, 16))
    restored[0, 3, 4, 1] = np.nan
    restored[1, 5, 6, 2] = np.inf
    for score in (psnr, ssim):
        np.testing.assert_array_equal(
            np.isnan(score(restored, target, "rain200")), [True, True, False]
        )
        np.testing.assert_array_equal(
            np.isnan(score(target, restored, "rain200")), [True, True, False]
        )


@pytest.mark.parametrize("score", [psnr, ssim])
def test_leading_axes_and_vmap(score: Callable[..., jax.Array]) -> None:
    restored, target = random_pairs(2, 3, 16, 18)
    expected = score(restored, target, "rain200")
    assert expected.shape == (2, 3)
    alone = score(restored[1, 2], target[1, 2], "rain200")
    assert alone.shape == ()
    np.testing.assert_allclose(alone, expected[1, 2], rtol=1e-6, atol=0)
    each = jax.vmap(jax.vmap(lambda x, y: score(x, y, "rain200")))(restored, target)
    np.testing.assert_allclose(each, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("protocol", WITH_SSIM)
def test_float64_mode_changes_nothing(protocol: str) -> None:
    restored, target = random_pairs(2, 16, 18)
    with jax.enable_x64(True):
        assert_agree(restored, target, protocol)


@pytest.mark.parametrize("protocol", WITH_SSIM)
def test_no_matrix_product(protocol: str) -> None:
    """Accelerators would round its operands to bfloat16 or TF32."""
    restored, target = random_pairs(1, 16, 18)
    for score in (psnr, ssim):
        program = score.lower(restored, target, protocol).as_text()
        assert "stablehlo.subtract" in program
        assert "stablehlo.dot" not in program
        assert "stablehlo.convolution" not in program


@pytest.mark.parametrize("score", [jax_metrics.psnr, jax_metrics.ssim])
@pytest.mark.parametrize("protocol", ALL)
def test_errors(score: Callable[..., jax.Array], protocol: str) -> None:
    _, target = random_pairs(2, 20, 24)
    with pytest.raises(ValueError, match=r"shape \(2, 19, 24, 3\), its target \(2, 20, 24, 3\)"):
        score(target[:, :19], target, protocol)
    with pytest.raises(ValueError, match=r"shape \(20, 24, 3\), its target \(2, 20, 24, 3\)"):
        score(target[0], target, protocol)
    with pytest.raises(ValueError, match=r"restored: expected uint8, or float .* int32"):
        score(target.astype(np.int32), target, protocol)
    with pytest.raises(ValueError, match=r"target: expected RGB .* \(20, 24\)"):
        score(target, target[0, ..., 0], protocol)
    with pytest.raises(ValueError, match=r"restored: expected RGB .* \(0, 20, 24, 3\)"):
        score(target[:0], target[:0], protocol)
    with pytest.raises(ValueError, match="unknown protocol 'y'"):
        score(target, target, "y")


@pytest.mark.parametrize("protocol", WITH_SSIM)
@pytest.mark.parametrize("size", [(10, 30), (30, 10)])
def test_too_small_for_the_window(protocol: str, size: tuple[int, int]) -> None:
    restored, target = random_pairs(2, *size)
    with pytest.raises(ValueError, match=f"at least 11 x 11 pixels, got {size[1]} x {size[0]}"):
        ssim(restored, target, protocol)
    assert np.isfinite(psnr(restored, target, protocol)).all()


# An evaluation step: restoration and scores in one program, the batch split over the devices.
PROGRAM = """
import sys
import jax, numpy as np
from drsformer_jax.evaluation.jax_metrics import psnr, ssim
from drsformer_jax.training.sharding import batch_sharding, make_mesh, replicated, shard_batch

def eval_step(gain, batch):
    restored = batch["input"] * gain
    return psnr(restored, batch["target"], "rain200"), ssim(restored, batch["target"], "did_ddn")

mesh = make_mesh()
batch = shard_batch(np.load(sys.argv[1]), mesh)
step = jax.jit(eval_step, in_shardings=(replicated(mesh), batch_sharding(mesh)))
step = step.lower(0.9, batch).compile()
scores = step(0.9, batch)
for name in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
    assert name not in step.as_text(), name
for score in scores:
    assert [part.data.shape for part in score.addressable_shards] == [(2,)] * 4
np.save(sys.argv[2], np.stack(scores))
"""


def test_eval_step_on_four_devices(tmp_path: Path) -> None:
    images, target = random_pairs(8, 24, 20)
    rainy = images.astype(np.float32) / 255
    np.savez(tmp_path / "batch.npz", input=rainy, target=target)
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "batch.npz"), str(tmp_path / "scores.npy")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    restored = quantise(rainy * np.float32(0.9))
    pairs = list(zip(restored, target, strict=True))
    for scores, metric, protocol, tolerance in zip(
        np.load(tmp_path / "scores.npy"),
        (metrics.psnr, metrics.ssim),
        ("rain200", "did_ddn"),
        (PSNR_TOLERANCE, SSIM_TOLERANCE),
        strict=True,
    ):
        expected = [metric(x, y, protocol) for x, y in pairs]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)
