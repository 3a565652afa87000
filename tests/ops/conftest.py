"""Blocks for TPU that CPU computes sooner."""

from __future__ import annotations

import functools

import pytest

from drsformer_jax.ops.tpu import block_convolution


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 channels, for CPU computes their zeros, too; tests/ops/tpu has whole ones."""
    small = functools.partial(block_convolution.into_blocks, size=4)
    monkeypatch.setattr(block_convolution, "into_blocks", small)
