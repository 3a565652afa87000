"""What is printed and written of scores stays as it was: other programs read it.

`fixtures` holds what was written when this test was. Numbers in it count to six digits: the last
ones are those of the libraries that were installed.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.data.sets import SETS
from drsformer_jax.evaluation.run import Options, Task, evaluate_workdir
from drsformer_jax.inference import batches
from drsformer_jax.inference.derainer import Derainer

FIXTURES = Path(__file__).with_name("fixtures")

# With what has to be escaped in CSV, in JSON and on a terminal.
NAMES = ("1", "2", 'a,"b"', "tab\there", "ü", "x y", "z")


def picture(seed: int, height: int = 16, width: int = 20) -> np.ndarray:
    """uint8 (H, W, 3) that no library's random numbers decide, from 0 to 199."""
    numbers = np.arange(height * width * 3, dtype=np.int64)
    mixed = (numbers * numbers * 7 + numbers * (31 + seed) + seed * 1_009) % 65_537 % 200
    return mixed.reshape(height, width, 3).astype(np.uint8)


def save(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}.png")


def rounded(text: str) -> str:
    return re.sub(r"\d+\.\d+(e-\d+)?", lambda found: f"{float(found[0]):.6g}", text)


def check(case: str, found: dict[str, str]) -> None:
    """That each text is the fixture's, byte for byte but for the last digits of numbers."""
    for suffix, text in found.items():
        expected = (FIXTURES / f"{case}.{suffix}").read_bytes().decode()
        assert rounded(text) == rounded(expected), f"{case}.{suffix}"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """targets/, rainy/, better/ and equal/; the last has an identical image, better/ two."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        target = picture(i)
        save(Path("targets"), name, target)
        save(Path("rainy"), name, target + np.uint8(9 + i))
        save(Path("better"), name, target + np.uint8(0 if i in (2, 4) else 2 + i))
        save(Path("equal"), name, target + np.uint8(0 if i == 2 else 9 + i))


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("one", "better targets --protocol rain200"),
        ("one_by_other", "rainy targets --protocol did_ddn"),
        ("one_file", "rainy/z.png targets/1.png --protocol basicsr"),
        ("several", "rainy März=better equal targets --protocol rain200"),
        ("several_psnr", "rainy rainy targets --protocol basicsr"),
        ("several_files", "rainy/1.png better/2.png targets/1.png --protocol rain200"),
        ("niqe", "clean noisy --no-reference niqe"),
        ("niqe_file", "clean/s.png --no-reference niqe"),
    ],
)
def test_score(case: str, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "niqe" in case:
        ramp = np.arange(192, dtype=np.uint8)[None, :, None] // np.uint8(4)
        for folder, strength in (("clean", 8), ("noisy", 2)):
            save(Path(folder), "s", ramp + picture(1, 96, 192) // np.uint8(strength))
    files = ["--json", "scores.json", "--csv", "scores.csv"]
    assert main(["score", *arguments.split(), *files]) == 0
    check(
        case,
        {
            "txt": capsys.readouterr().out,
            "json": Path("scores.json").read_bytes().decode(),
            "csv": Path("scores.csv").read_bytes().decode(),
        },
    )


class Pairs:
    """Some pairs: of the second, the input is its target; of the third, what `Dimmed` gives is."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        target = picture(index) + np.uint8(10)
        added = (5, 0, 2, 8, 9, 10, 11)[index]
        return {"input": target + np.uint8(added), "target": target, "name": NAMES[index]}


class Dimmed:
    """In the place of the network: darker by 2."""

    config = SimpleNamespace(summary=lambda: "no network")

    def for_sizes(self, sizes: list, **_: int) -> Dimmed:
        return self

    def __call__(self, image: np.ndarray, *, tile: int, overlap: int, blend: str) -> np.ndarray:
        assert blend == "uniform"  # as the authors' program joins tiles
        return image - np.uint8(2)


def test_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Derainer, "load", lambda workdir, **options: Dimmed())
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    ticks = itertools.count(step=0.25)
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(batches, "time", clock)
    tasks = [
        Task("rain200h", Pairs(3), "rain200", SETS["rain200h"]),
        Task("ddn", Pairs(2), "did_ddn", SETS["rain200l"]),
        Task("mine", Pairs(7), "basicsr"),
    ]
    printed = evaluate_workdir(Path("run"), tasks, Options(tile=16, overlap=8), own=False)
    *lines, written = printed.splitlines()
    assert written.startswith("written to run/evaluation")
    evaluation = Path("run") / "evaluation"
    files = {"results.json": "json", "results.md": "md"}
    found = {suffix: (evaluation / name).read_bytes().decode() for name, suffix in files.items()}
    check("evaluation", {"txt": "\n".join(lines), **found})
    for task in tasks:
        scores = {
            suffix: (evaluation / task.name / f"scores.{suffix}").read_bytes().decode()
            for suffix in ("json", "csv")
        }
        check(f"evaluation_{task.name}", scores)


def test_verification(capsys: pytest.CaptureFixture[str]) -> None:
    for split, seeds in (("train", range(4)), ("test", range(3, 6))):
        for i in seeds:
            save(Path("set") / split / "target", f"{i}", picture(i))
            added = np.uint8(0 if i == 5 else 20)
            save(Path("set") / split / "input", f"{i}", picture(i) + added)
    save(Path("set/train/input"), "77", picture(9))
    save(Path("set/train/target"), "2", picture(2, 12, 20))
    assert main(["data", "verify", "set", "--as", "rain100h", "--json", "found.json"]) == 1
    json_text = Path("found.json").read_bytes().decode()
    check("verification", {"txt": capsys.readouterr().out, "json": json_text})
