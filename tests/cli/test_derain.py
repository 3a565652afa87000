"""`drsformer derain`, through the command's own entry point."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS

TINY = PRESETS["tiny"]


@pytest.fixture
def darken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the network: every value halved. Returns the `weights` that were asked for."""
    asked: list[Any] = []

    def load(weights: Any = None, devices: int = 1) -> Derainer:
        asked.append(weights)
        return Derainer(TINY, {}, restore=lambda _, image: 0.5 * image)

    monkeypatch.setattr(Derainer, "load", staticmethod(load))
    return asked


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (21, 13)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 4), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_file_becomes_png_of_the_same_base_name(
    tmp_path: Path, darken: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "my photo.v2.bmp")
    assert main(["derain", str(source), "-o", str(tmp_path / "a" / "b")]) == 0
    written = tmp_path / "a" / "b" / "my photo.v2.png"
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    np.testing.assert_array_equal(read(written), np.rint(read(source) * np.float32(0.5)))
    output = capsys.readouterr()
    assert f"{written}  21 x 13" in output.out
    assert output.err == ""
    assert darken == [None]


def test_default_folder(tmp_path: Path, darken: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photo.jpg")
    assert main(["derain", "photo.jpg"]) == 0
    assert (tmp_path / "derained" / "photo.png").is_file()


def test_quiet_tells_of_problems_alone(
    tmp_path: Path, darken: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = save(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert main(["derain", str(good), str(bad), "-o", str(tmp_path / "out"), "--quiet"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 2
    assert (tmp_path / "out" / "good.png").is_file()


def test_folders_and_files_of_all_kinds(tmp_path: Path, darken: list[Any]) -> None:
    folder = tmp_path / "photos"
    save(folder / "grey.png", "L")
    save(folder / "alpha.png", "RGBA")
    save(folder / "tiny.png", size=(1, 1))
    save(folder / "cmyk.jpg", "CMYK")
    save(folder / "below" / "nested.png")
    (folder / "notes.txt").write_text("no image")
    single = save(tmp_path / "single.tif")
    out = tmp_path / "out"
    assert main(["derain", str(folder), str(single), str(single), "-o", str(out)]) == 0
    modes = {}
    for path in out.iterdir():
        with Image.open(path) as image:
            modes[path.name] = image.mode
    assert modes == {
        "grey.png": "L",
        "alpha.png": "RGBA",
        "tiny.png": "RGB",
        "cmyk.png": "RGB",
        "single.png": "RGB",
    }


def test_bad_file_is_reported_at_the_end_and_stops_nothing(
    tmp_path: Path, darken: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    save(folder / "a.png")
    (folder / "b.png").write_bytes(b"broken")
    save(folder / "c.png")
    out = tmp_path / "out"
    assert main(["derain", str(folder), "-o", str(out)]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    errors = capsys.readouterr().err
    assert f"error: {folder / 'b.png'}" in errors
    assert "1 of 3 images failed" in errors
    assert "Traceback" not in errors


def test_names_that_are_no_text_and_a_full_disk_stop_nothing(
    tmp_path: Path,
    darken: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["a", os.fsdecode(b"Stra\xdfe"), "z"]
    for name in names:
        save(tmp_path / "photos" / f"{name}.png")
    command = ["derain", str(tmp_path / "photos"), "-o"]
    with (tmp_path / "printed").open("w", encoding="utf-8", errors="strict") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main([*command, str(tmp_path / "out")]) == 0
    assert "Stra\\udcdfe.png  21 x 13" in (tmp_path / "printed").read_text(encoding="utf-8")
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert main([*command, str(tmp_path / "full")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert {path.stem for path in (tmp_path / "full").iterdir()} == set(names)
    assert {path.stem for path in (tmp_path / "out").iterdir()} == set(names)


@pytest.mark.parametrize("letter", ["A", "ü"])
def test_long_names(
    letter: str, tmp_path: Path, darken: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    longest = letter * (250 // len(letter.encode()))
    for name in (f"{longest}.png", "z.png"):
        save(tmp_path / "photos" / name)
    # Of a file without a suffix the output's name has four letters more.
    beyond = (tmp_path / "photos" / "z.png").rename(tmp_path / f"{longest}12345")
    out = tmp_path / "out"
    save(tmp_path / "photos" / "z.png")
    assert main(["derain", str(beyond), str(tmp_path / "photos"), "-o", str(out)]) == 1
    assert sorted(path.stem for path in out.iterdir()) == sorted([longest, "z"])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert f"error: {beyond}: cannot be written to" in told[0]
    assert "File name too long" in told[0]
    (out / "z.png").unlink()
    again = [str(beyond), str(tmp_path / "photos"), "-o", str(out), "--skip-existing"]
    assert main(["derain", *again]) == 1
    assert (out / "z.png").exists()
    assert f"error: {beyond}: cannot be written to" in capsys.readouterr().err


def test_a_page_whose_name_is_too_long_is_told_before_the_work(
    tmp_path: Path, darken: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = save(tmp_path / f"{'A' * 248}.png"), tmp_path / "out"
    for more in ([], ["--skip-existing"]):
        assert main(["derain", str(source), "-o", str(out), "--compare", *more]) == 1
        told = capsys.readouterr().err.splitlines()
        page = out / f"{source.name}.html"
        assert told[0] == (
            f"error: {source}: cannot be written to {page} (File name too long): alone, with "
            "-o NAME.png, it gets another name"
        )
        assert not list(out.glob("[!.]*"))
    assert main(["derain", str(source), "-o", str(out)]) == 0
    assert [path.name for path in out.glob("*.png")] == [source.name]


def test_one_image_into_a_file(tmp_path: Path, darken: list[Any]) -> None:
    source = save(tmp_path / "photo.bmp")
    out = tmp_path / "new" / "result.png"
    assert main(["derain", str(source), "-o", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["result.png"]
    np.testing.assert_array_equal(read(out), np.rint(read(source) * np.float32(0.5)))


@pytest.mark.parametrize("failure", [MemoryError, FloatingPointError])
def test_image_that_cannot_be_restored_is_a_bad_file(
    failure: type[Exception],
    tmp_path: Path,
    darken: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise failure("the reason")

    monkeypatch.setattr(Derainer, "restore_float", fail)
    source = save(tmp_path / "photo.png")
    assert main(["derain", str(source), "-o", str(tmp_path / "out")]) == 1
    assert f"error: {source}: " in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_tiles_reach_the_derainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def forward(_: Any, image: Any) -> Any:
        shapes.append(image.shape)
        return image

    monkeypatch.setattr(
        Derainer, "load", staticmethod(lambda _, **__: Derainer(TINY, {}, restore=forward))
    )
    source = save(tmp_path / "photo.png", size=(64, 40))
    arguments = ["derain", str(source), "-o", str(tmp_path / "out"), "--tile", "24"]
    assert main([*arguments, "--overlap", "8"]) == 0
    assert shapes == [(1, 24, 24, 3)]
    np.testing.assert_array_equal(read(tmp_path / "out" / "photo.png"), read(source))


class TestMistakes:
    """Each is told in one line with exit code 2, before anything is written."""

    @pytest.fixture(autouse=True)
    def _in_a_folder(
        self,
        tmp_path: Path,
        darken: list[Any],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.capsys = capsys
        save(tmp_path / "photo.jpg")

    def refused(self, *arguments: str) -> str:
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        assert main(["derain", *arguments]) == 2
        after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        assert after == before
        assert not Path("derained").exists()
        output = self.capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err

    def test_missing_input(self) -> None:
        assert "nowhere.jpg: no such file" in self.refused("photo.jpg", "nowhere.jpg")

    def test_folder_without_images(self) -> None:
        Path("empty").mkdir()
        assert "empty: no images" in self.refused("photo.jpg", "empty")

    def test_same_base_name_twice(self) -> None:
        save(Path("other/photo.png"))
        message = self.refused("photo.jpg", "other")
        assert "photo.jpg and other/photo.png" in message

    def test_output_over_an_input(self) -> None:
        save(Path("rain.png"))
        assert "would overwrite an input" in self.refused("rain.png", "-o", ".")

    def test_output_over_an_input_through_a_link(self) -> None:
        save(Path("photos/rain.png"))
        Path("link").symlink_to("photos")
        assert "would overwrite" in self.refused("photos", "-o", "link")

    def test_output_over_an_image_beside_the_input(self) -> None:
        save(Path("photo.png"))
        assert "photo.png exists beside" in self.refused("photo.jpg", "-o", ".")

    def test_output_is_a_file(self) -> None:
        Path("taken").touch()
        assert "-o taken: is a file" in self.refused("photo.jpg", "-o", "taken")

    def test_output_below_a_file(self) -> None:
        assert "-o photo.jpg/out" in self.refused("photo.jpg", "-o", "photo.jpg/out")

    def test_a_folder_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
        assert "-o gone: cannot be written (No such" in self.refused("photo.jpg", "-o", "gone")

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (("--tile", "60"), "--tile"),
            (("--tile", "-8"), "--tile"),
            (("--tile", "64", "--overlap", "64"), "--overlap"),
            (("--overlap", "-1"), "--overlap"),
        ],
    )
    def test_bad_tiles(self, flags: tuple[str, ...], named: str) -> None:
        assert f"{named} must" in self.refused("photo.jpg", *flags)


def test_weights_of_a_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, with a network: file of weights, image, tiles of one compiled size."""
    import jax

    from drsformer_jax.checkpoints.weights import Weights, save_weights
    from drsformer_jax.models.drsformer import init_params

    shapes = jax.eval_shape(functools.partial(init_params, TINY), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, Weights(TINY, params, {}))
    source = save(tmp_path / "photo.png", size=(12, 10))
    arguments = ["derain", str(source), "-o", str(tmp_path / "out"), "--weights"]
    assert main([*arguments, str(weights), "--tile", "8", "--overlap", "0"]) == 0
    expected = Derainer(TINY, params)(read(source), tile=8, overlap=0)
    np.testing.assert_array_equal(read(tmp_path / "out" / "photo.png"), expected)

    assert main([*arguments, str(tmp_path / "missing.safetensors")]) == 2
    assert "missing.safetensors" in capsys.readouterr().err


def test_help_is_fast_and_light() -> None:
    code = (
        "import sys; from drsformer_jax.cli.main import main; main(['derain', '--help']); "
        "heavy = {'jax', 'flax', 'torch', 'tensorflow', 'tensorflow_datasets', 'grain', 'PIL'}; "
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    assert "--overlap" in done.stdout
    assert "heavy: []" in done.stdout
    assert seconds < 2
