"""DRSformer, the sparse Transformer for image deraining (CVPR 2023), in JAX and Flax.

    from drsformer_jax import Derainer, load_weights, restore, train

Each name is imported when it is first used, so that `import drsformer_jax` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drsformer_jax.checkpoints.weights import load_weights
    from drsformer_jax.inference.derainer import Derainer
    from drsformer_jax.models.drsformer import restore
    from drsformer_jax.training.loop import train

__version__ = "0.1.0"
__all__ = ["Derainer", "load_weights", "restore", "train"]

_MODULES = {
    "Derainer": "drsformer_jax.inference.derainer",
    "load_weights": "drsformer_jax.checkpoints.weights",
    "restore": "drsformer_jax.models.drsformer",
    "train": "drsformer_jax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
