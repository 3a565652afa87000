"""The page of one photograph before and after, from the command that writes it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drsformer_jax.cli.main import main
from drsformer_jax.data.decoding import Decoded
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS
from drsformer_jax.page.before_after import LARGEST_SIDE, write_comparison


def pictures_in(page: Path) -> list[np.ndarray]:
    found = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_derain_writes_a_page_beside_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = Derainer(PRESETS["tiny"], {}, restore=lambda _, image: 0.5 * image)
    monkeypatch.setattr(Derainer, "load", staticmethod(lambda weights, devices: half))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (21, 13), (200, 100, 60)).save("a<b.png")
    assert main(["derain", "a<b.png", "--compare", "-o", "dry<.png"]) == 0
    page = tmp_path / "dry<.png.html"
    before, after = pictures_in(page)
    assert before.shape == after.shape == (13, 21, 3)
    np.testing.assert_allclose(before[6, 10], (200, 100, 60), atol=3)
    np.testing.assert_allclose(after[6, 10], (100, 50, 30), atol=3)
    text = page.read_text()
    assert "<h1>dry&lt;.png</h1>" in text
    assert not re.search(r"(src|href)=|https?:|\bfetch\b|import ", text.replace('src="${', ""))
    # A second time it lies beside the input, and could be anybody's.
    assert main(["derain", "a<b.png", "--compare", "-o", "wet.png"]) == 0
    (tmp_path / "wet.png").unlink()
    capsys.readouterr()
    assert main(["derain", "a<b.png", "--compare", "-o", "wet.png"]) == 2
    assert "wet.png.html exists beside its input a<b.png" in capsys.readouterr().err
    assert not (tmp_path / "wet.png").exists()
    assert main(["derain", "a<b.png", "--compare", "-o", "-"]) == 2
    assert "--compare: the page lies beside the result" in capsys.readouterr().err


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (2, np.uint8), (4, np.uint16)])
def test_kinds_of_photographs_are_shown_small_and_opaque(
    channels: int, dtype: Any, tmp_path: Path
) -> None:
    samples = np.full((40, 2 * LARGEST_SIDE, channels), np.iinfo(dtype).max // 2, dtype)
    samples[..., -1] = np.iinfo(dtype).max // 2
    photo = Decoded(samples, icc_profile=b"not of three channels" if channels < 3 else None)
    write_comparison(tmp_path / "page.html", "n", photo, photo)
    expected = 191 if channels in (2, 4) else 127  # half of it over white
    for picture in pictures_in(tmp_path / "page.html"):
        assert picture.shape == (20, LARGEST_SIDE, 3)
        np.testing.assert_allclose(picture, expected, atol=2)
    assert "3200 × 40 pixels, shown as 1600 × 20" in (tmp_path / "page.html").read_text()
