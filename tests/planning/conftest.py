"""What tests share that have libtpu compile in their own process."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture
def no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """libtpu ends the process at a flag that it does not know, such as those of the suite."""
    jax.devices()  # CPU has read them
    monkeypatch.delenv("XLA_FLAGS", raising=False)
