"""Data sets' scores: what is called with what, what the mean is, what is said of bad pairs."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.errors import UserError
from drsformer_jax.evaluation import dataset
from drsformer_jax.evaluation.dataset import (
    DatasetScore,
    ImageScore,
    evaluate,
    score_folders,
)
from drsformer_jax.inference.batches import Restored, restore_one_by_one
from drsformer_jax.scores.metrics import psnr, ssim


def photograph(seed: int, height: int = 16, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3)).astype(np.uint8)


def rainy_source(count: int) -> list[dict]:
    targets = [photograph(seed) for seed in range(count)]
    return [
        {"input": target + np.uint8(10 + i), "target": target, "name": f"{i:03d}"}
        for i, target in enumerate(targets)
    ]


def less_six(image: np.ndarray) -> np.ndarray:
    return image - np.uint8(6)


@pytest.mark.parametrize("protocol", ["rain200", "did_ddn", "basicsr"])
def test_evaluate_scores_restored_and_rainy_images(protocol: str) -> None:
    source = rainy_source(3)
    seen: list[tuple[ImageScore, Restored]] = []
    # In the order of their numbers, whatever comes first.
    restorations = reversed(list(restore_one_by_one(less_six, enumerate(source))))
    score = evaluate(restorations, protocol, on_image=lambda *both: seen.append(both))
    assert score.protocol == protocol
    assert [image for image, _ in reversed(seen)] == list(score.images)
    assert all(
        np.array_equal(restored.image, less_six(pair["input"]))
        for pair, (_, restored) in zip(source, reversed(seen), strict=True)
    )
    for pair, image in zip(source, score.images, strict=True):
        restored = less_six(pair["input"])
        assert image.name == pair["name"]
        assert image.psnr == psnr(restored, pair["target"], protocol)
        assert image.ssim == ssim(restored, pair["target"], protocol)
        assert image.input_psnr == psnr(pair["input"], pair["target"], protocol)
        assert image.input_ssim == ssim(pair["input"], pair["target"], protocol)
    assert score.mean.psnr == pytest.approx(np.mean([image.psnr for image in score.images]))
    assert score.mean.input_psnr < score.mean.psnr
    assert (score.mean.ssim is None) == (protocol == "basicsr")


def test_seconds_are_those_of_the_restoration() -> None:
    def slow(image: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return image

    score = evaluate(restore_one_by_one(slow, enumerate(rainy_source(2))), "basicsr")
    assert all(image.seconds >= 0.05 for image in score.images)
    assert score.mean.seconds == pytest.approx(np.mean([image.seconds for image in score.images]))


def test_infinite_psnr_is_in_the_mean_and_the_rest_is_told_apart() -> None:
    images = (ImageScore("a", 30.0, 0.9), ImageScore("b", math.inf, 1.0), ImageScore("c", 33.0, 1))
    score = DatasetScore("rain200", images)
    assert score.mean.psnr == math.inf
    assert score.mean.ssim == pytest.approx(2.9 / 3)
    assert score.identical == ("b",)
    assert score.finite_mean_psnr == 31.5
    perfect = DatasetScore("rain200", images[1:2])
    assert perfect.mean.psnr == math.inf
    assert perfect.finite_mean_psnr is None


def test_a_source_that_cannot_be_scored() -> None:
    source = rainy_source(2)
    source[1]["target"] = source[1]["target"][:12]
    with pytest.raises(UserError, match=r"001: .* it is 20 x 16 pixels, its target 20 x 12"):
        evaluate(restore_one_by_one(less_six, enumerate(source)), "rain200")
    with pytest.raises(UserError, match="no image pairs"):
        evaluate(restore_one_by_one(less_six, enumerate([])), "rain200")
    small = [{"input": photograph(0, 8, 8), "target": photograph(1, 8, 8), "name": "tiny"}]
    with pytest.raises(UserError, match=r"tiny: .* at least 11 x 11"):
        evaluate(restore_one_by_one(less_six, enumerate(small)), "rain200")
    assert len(evaluate(restore_one_by_one(less_six, enumerate(small)), "basicsr").images) == 1


def test_a_restoration_of_another_size_or_type() -> None:
    source = list(enumerate(rainy_source(1)))
    with pytest.raises(ValueError, match="000: it is 20 x 8 pixels, its target 20 x 16"):
        evaluate(restore_one_by_one(lambda image: image[:8], source), "rain200")
    with pytest.raises(ValueError, match=r"000: .* uint8 arrays, got float64"):
        evaluate(
            restore_one_by_one(lambda image: image / 255, enumerate(rainy_source(1))), "rain200"
        )


def test_unknown_protocol_before_any_work() -> None:
    def never(image: np.ndarray) -> np.ndarray:
        raise AssertionError("restored an image for an unknown protocol")

    with pytest.raises(ValueError, match="unknown protocol"):
        evaluate(restore_one_by_one(never, enumerate(rainy_source(1))), "niqe")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """results/ and targets/ with three pairs, the results brighter by 4, 5 and 6."""
    results, targets = tmp_path / "results", tmp_path / "targets"
    results.mkdir()
    targets.mkdir()
    for i in range(3):
        target = photograph(i)
        Image.fromarray(target).save(targets / f"{i}.png")
        Image.fromarray(target + np.uint8(4 + i)).save(results / f"{i}.png")
    return results, targets


def test_score_folders(folders: tuple[Path, Path]) -> None:
    score = score_folders(*folders, "did_ddn")
    assert [image.name for image in score.images] == ["0", "1", "2"]
    for i, image in enumerate(score.images):
        target = photograph(i)
        assert image.psnr == psnr(target + np.uint8(4 + i), target, "did_ddn")
        assert image.ssim == ssim(target + np.uint8(4 + i), target, "did_ddn")
        assert (image.input_psnr, image.input_ssim, image.seconds) == (None, None, None)
    assert score.mean.input_psnr is None


def test_all_bad_files_are_named_at_once(folders: tuple[Path, Path]) -> None:
    results, targets = folders
    Image.fromarray(photograph(0, 16, 19)).save(results / "0.png")
    (targets / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        score_folders(results, targets, "rain200")
    message = str(caught.value)
    assert message.startswith("2 of 3 images cannot be scored: ")
    assert f"{results / '0.png'}: it is 19 x 16 pixels, its target 20 x 16" in message
    assert str(targets / "2.png") in message
    assert "\n" not in message


def test_images_too_large_for_the_memory(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> float:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(dataset, "ssim", full)
    with pytest.raises(UserError, match=r"3 of 3 .*0\.png: this machine's memory is not enough"):
        score_folders(*folders, "rain200")
