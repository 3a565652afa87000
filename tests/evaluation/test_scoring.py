"""The scores of several methods, by protocol and without targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.data.pairing import NamedPair
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation import scoring
from drsformer_jax.evaluation.comparison import Method
from drsformer_jax.evaluation.methods import paired_with_targets
from drsformer_jax.evaluation.scoring import compare_niqe, compare_with_targets
from drsformer_jax.scores.metrics import psnr, ssim
from drsformer_jax.scores.niqe import niqe
from drsformer_jax.scores.niqe_model import packaged


def images(folder: Path, size: tuple[int, int], seed: int, count: int = 2) -> Path:
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(100 * seed + i)
        Image.fromarray(rng.integers(0, 200, (*size, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def pairs_of(results: Path, targets: Path) -> list[NamedPair]:
    paths = sorted(results.iterdir())
    return [NamedPair(path.stem, path, targets / path.name) for path in paths]


@pytest.mark.parametrize("protocol", ["rain200", "did_ddn", "basicsr"])
def test_every_method_is_scored_by_the_protocol(tmp_path: Path, protocol: str) -> None:
    targets = images(tmp_path / "targets", (16, 20), 0)
    folders = [images(tmp_path / name, (16, 20), i + 1) for i, name in enumerate("ab")]
    methods = [Method(folder.name, folder) for folder in folders]
    seen: list[None] = []
    comparison = compare_with_targets(
        methods,
        [pairs_of(folder, targets) for folder in folders],
        protocol,
        on_image=lambda: seen.append(None),
    )
    assert len(seen) == 4
    assert comparison.methods == methods
    for scores, folder in zip(comparison.scores, folders, strict=True):
        assert scores.names == ("0", "1")
        assert list(scores.columns) == (["psnr"] if protocol == "basicsr" else ["psnr", "ssim"])
        for i in range(2):
            result, target = (
                np.asarray(Image.open(path / f"{i}.png")) for path in (folder, targets)
            )
            assert scores.columns["psnr"][i] == psnr(result, target, protocol)
            if protocol != "basicsr":
                assert scores.columns["ssim"][i] == ssim(result, target, protocol)


def test_niqe_of_every_method(tmp_path: Path) -> None:
    folders = [images(tmp_path / name, (96, 192), i) for i, name in enumerate("ab")]
    methods = [Method(folder.name, folder) for folder in folders]
    pairs = [pairs_of(folder, folders[0]) for folder in folders]
    model = packaged()
    comparison = compare_niqe(methods, pairs, model)
    for scores, folder in zip(comparison.scores, folders, strict=True):
        assert list(scores.columns) == ["niqe"]
        for i in range(2):
            image = np.asarray(Image.open(folder / f"{i}.png"))
            assert scores.columns["niqe"][i] == niqe(image, model.mean, model.covariance)
    assert comparison.model is not None
    assert comparison.model.startswith("The 200 clean training images of Rain100L")


def test_all_images_without_a_niqe_are_named_at_once(tmp_path: Path) -> None:
    small = images(tmp_path / "small", (96, 190), 0)
    flat = images(tmp_path / "flat", (96, 192), 0)
    Image.new("RGB", (192, 96)).save(flat / "1.png")
    methods = [Method(folder.name, folder) for folder in (small, flat)]
    with pytest.raises(UserError) as caught:
        compare_niqe(methods, [pairs_of(folder, small) for folder in (small, flat)], packaged())
    message = str(caught.value)
    assert message.startswith("3 of 4 images cannot be scored: ")
    for path in (small / "0.png", small / "1.png"):
        assert f"{path}: NIQE needs two blocks of 96 x 96 pixels" in message
    assert f"{flat / '1.png'}: NIQE needs two blocks" in message
    assert "\n" not in message


@pytest.fixture
def two_methods(tmp_path: Path) -> tuple[list[Method], Path]:
    targets = images(tmp_path / "targets", (16, 20), 0, count=3)
    names = ("a", "b")
    return [Method(n, images(tmp_path / n, (16, 20), i, 3)) for i, n in enumerate(names)], targets


def test_all_bad_files_are_named_at_once(two_methods: tuple[list[Method], Path]) -> None:
    methods, targets = two_methods
    Image.new("RGB", (19, 16)).save(methods[0].path / "0.png")
    (methods[1].path / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        compare_with_targets(methods, paired_with_targets(methods, targets), "rain200")
    message = str(caught.value)
    assert message.startswith("2 of 6 images cannot be scored: ")
    assert f"{methods[0].path / '0.png'}: it is 19 x 16 pixels, its target 20 x 16" in message
    assert str(methods[1].path / "1.png") in message
    assert "\n" not in message


def test_images_too_large_for_the_memory(
    two_methods: tuple[list[Method], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> dict[str, float]:
        raise MemoryError("Unable to allocate 9 TiB")

    methods, targets = two_methods
    monkeypatch.setattr(scoring, "score", full)
    with pytest.raises(UserError, match=r"6 of 6 .*0\.png: this machine's memory is not enough"):
        compare_with_targets(methods, paired_with_targets(methods, targets), "rain200")


def test_an_unknown_protocol_before_any_work(two_methods: tuple[list[Method], Path]) -> None:
    methods, targets = two_methods
    pairs = paired_with_targets(methods, targets)
    (methods[0].path / "0.png").unlink()
    with pytest.raises(ValueError, match="unknown protocol"):
        compare_with_targets(methods, pairs, "niqe")
