"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real image pairs and reference scores that developers keep beside the checkout.

    A newcomer has none: the tests that need it then skip and say so. DRSFORMER_SHARED names it.
    """
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("DRSFORMER_SHARED", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no real image pairs: {path / 'data'} is not there (set DRSFORMER_SHARED)")
    return path
