"""`drsformer score` as a job: parts and a table that are those of one run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.cli.main import main
from drsformer_jax.data.images import write_png


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In it targets, a method, and another one with an image that equals its target."""
    monkeypatch.chdir(tmp_path)
    for number in range(7):
        target = np.random.default_rng(number).integers(0, 200, (16, 20, 3), np.uint8)
        for name, image in (("t", target), ("a", target + np.uint8(number)), ("b", target + 5)):
            Path(name).mkdir(exist_ok=True)
            write_png(Path(name, f"{number}.png"), np.uint8(image))


def score(*arguments: str) -> int:
    return main(["score", "a", "b", "t", "--protocol", "rain200", *arguments])


def files(name: str) -> list[str]:
    return ["--json", f"{name}.json", "--csv", f"{name}.csv"]


def test_parts_make_the_table_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*files("plain")) == 0
    table = capsys.readouterr().out
    for part in ("3/3", "1/3"):
        assert score("--job", "job", "--shard", part) == 0
    assert main(["score", "--status", "job"]) == 1
    capsys.readouterr()
    # What no part has done is done now.
    assert score("--job", "job", *files("merged")) == 0
    told = capsys.readouterr().out
    assert told.endswith(table)
    assert " of 14 are done already\n" in told.removesuffix(table)
    for suffix in ("json", "csv"):
        merged, plain = (Path(f"{name}.{suffix}").read_bytes() for name in ("merged", "plain"))
        assert merged == plain
    assert main(["score", "--status", "job"]) == 0
    capsys.readouterr()
    # An image that has changed is scored anew.
    write_png(Path("a/3.png"), np.zeros((16, 20, 3), np.uint8))
    assert score("--job", "job", *files("merged")) == 0
    assert capsys.readouterr().out.startswith("13 of 14 are done already\n")
    assert score(*files("plain")) == 0
    assert Path("merged.json").read_bytes() == Path("plain.json").read_bytes()


@pytest.mark.parametrize("damaged", ['{"psnr": null, "ssim": 1}', '{"psnr": "x", "ssim": 1}', "{}"])
def test_damaged_scores_are_told(damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score("--job", "job") == 0
    (ledger,) = Path("job/.drsformer/ledger").iterdir()
    text, found = re.subn(r'"result": {[^}]+}', f'"result": {damaged}', ledger.read_text())
    assert found == 14
    ledger.write_text(text)
    capsys.readouterr()
    assert score("--job", "job", *files("all")) == 2
    error = capsys.readouterr().err
    assert f"{ledger.parent}: what is noted of a/0 is damaged: remove job/.drsformer, and" in error
    assert not Path("all.json").exists()
    shutil.rmtree(ledger.parents[1])
    assert score("--job", "job") == 0


def test_a_bad_image_is_named_as_by_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/3.png").write_text("no image")
    assert score() == 2
    error = capsys.readouterr().err
    codes = {score("--job", "job", "--shard", part) for part in ("1/2", "2/2")}
    assert codes == {0, 1}
    capsys.readouterr()
    assert score("--job", "job") == 2
    assert capsys.readouterr().err.endswith(error)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--shard", "1/2"], "need a folder to lie in: --job FOLDER"),
        (["--job", "job", "--shard", "1/2", *files("x")], "--json, --csv: are for all scores"),
        (["--job", "job/more"], "job/more/.drsformer: cannot be written"),
    ],
)
def test_mistakes(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job").touch()
    assert score(*arguments) == 2
    assert why in capsys.readouterr().err


def test_without_a_target() -> None:
    niqe = ["score", "a", "--no-reference", "niqe"]
    for number in range(7):
        image = np.random.default_rng(number).integers(0, 255, (200, 200, 3), np.uint8)
        write_png(Path("a", f"{number}.png"), image)
    assert main([*niqe, *files("plain")]) == 0
    assert main([*niqe, "--job", "job", "--shard", "1/2"]) == 0
    assert main([*niqe, "--job", "job", *files("merged")]) == 0
    assert Path("merged.json").read_bytes() == Path("plain.json").read_bytes()
