"""The scores of several methods, by protocol and without targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.comparison import NIQE, compare_niqe, compare_with_targets
from drsformer_jax.evaluation.comparison_files import write_comparison_csv
from drsformer_jax.evaluation.comparison_report import format_comparison
from drsformer_jax.evaluation.methods import Method
from drsformer_jax.evaluation.pairing import FilePair
from drsformer_jax.scores.metrics import psnr, ssim
from drsformer_jax.scores.niqe import niqe
from drsformer_jax.scores.niqe_model import packaged


def images(folder: Path, size: tuple[int, int], seed: int, count: int = 2) -> Path:
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(100 * seed + i)
        Image.fromarray(rng.integers(0, 200, (*size, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def pairs_of(results: Path, targets: Path) -> list[FilePair]:
    paths = sorted(results.iterdir())
    return [FilePair(path.stem, path, targets / path.name) for path in paths]


@pytest.mark.parametrize("protocol", ["rain200", "did_ddn", "basicsr"])
def test_every_method_is_scored_by_the_protocol(tmp_path: Path, protocol: str) -> None:
    targets = images(tmp_path / "targets", (16, 20), 0)
    folders = [images(tmp_path / name, (16, 20), i + 1) for i, name in enumerate("ab")]
    methods = [Method(folder.name, folder) for folder in folders]
    seen: list[object] = []
    comparison = compare_with_targets(
        methods, [pairs_of(folder, targets) for folder in folders], protocol, on_image=seen.append
    )
    assert len(seen) == 4
    assert comparison.images == ("0", "1")
    assert len(comparison.metrics) == (1 if protocol == "basicsr" else 2)
    for method, folder in zip(comparison.methods, folders, strict=True):
        for i in range(2):
            result, target = (
                np.asarray(Image.open(path / f"{i}.png")) for path in (folder, targets)
            )
            assert method.values["psnr"][i] == psnr(result, target, protocol)
            if protocol != "basicsr":
                assert method.values["ssim"][i] == ssim(result, target, protocol)


def test_niqe_of_every_method(tmp_path: Path) -> None:
    folders = [images(tmp_path / name, (96, 192), i) for i, name in enumerate("ab")]
    methods = [Method(folder.name, folder) for folder in folders]
    pairs = [pairs_of(folder, folders[0]) for folder in folders]
    model = packaged()
    comparison = compare_niqe(methods, pairs, model)
    assert comparison.metrics == (NIQE,)
    for method, folder in zip(comparison.methods, folders, strict=True):
        for i in range(2):
            image = np.asarray(Image.open(folder / f"{i}.png"))
            assert method.values["niqe"][i] == niqe(image, model.mean, model.covariance)
    printed = format_comparison(comparison)
    assert printed.startswith("NIQE, no target needed, lower is better, 2 images\n")
    assert "pristine model: The 200 clean training images of Rain100L" in printed
    write_comparison_csv(tmp_path / "scores.csv", comparison)
    assert (tmp_path / "scores.csv").read_text().startswith("method,name,niqe\na,0,")


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
