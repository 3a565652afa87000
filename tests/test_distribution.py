"""What a release uploads: built, and used offline from a fresh environment without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def test_the_wheel_derains_in_a_fresh_environment(tmp_path: Path) -> None:
    # A build leaves files behind that later ones would take for the package's.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "drsformer_jax", source / "drsformer_jax")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", source, "--no-deps", "--wheel-dir", tmp_path], check=True)
    (wheel,) = tmp_path.glob("drsformer_jax-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {name.split("/")[0] for name in names}
    assert rooms == {"drsformer_jax", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    assert sum(name.startswith("drsformer_jax/weights/") for name in names) >= 1
    for name in ("py.typed", "__init__.pyi", "page/static/index.html", "training/report.css"):
        assert f"drsformer_jax/{name}" in names
    assert wheel.stat().st_size < 20e6

    venv.create(tmp_path / "fresh", with_pip=True)
    programs = tmp_path / "fresh" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", wheel], check=True)
    Image.new("RGB", (40, 24), "grey").save(tmp_path / "photo.jpg")
    subprocess.run(
        [programs / "drsformer", "derain", "photo.jpg"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:9", "JAX_PLATFORMS": "cpu"},
        check=True,
    )
    assert Image.open(tmp_path / "derained" / "photo.png").size == (40, 24)
