"""The toy network in the place of the real one."""

from __future__ import annotations

import pytest
from reference.toy_training import toy_init_params, toy_restore


@pytest.fixture
def toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsformer_jax.training.state.init_params", toy_init_params)
    monkeypatch.setattr("drsformer_jax.training.step.restore", toy_restore)
