"""Restoring images of any size with a trained network: `Derainer.load(weights)(image)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

__all__ = ["Derainer"]


def __getattr__(name: str) -> Any:
    # Looked up on first use, so that importing a light module of this package stays light.
    if name == "Derainer":
        from drsformer_jax.inference.derainer import Derainer

        return Derainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
