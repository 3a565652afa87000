"""DRSformer, the sparse Transformer for image deraining (CVPR 2023), in JAX and Flax.

    from drsformer_jax import Derainer, load_weights, restore, train

Each name is imported when it is first used, so that `import drsformer_jax` stays light. For type
checkers and editors `__init__.pyi` says what they are.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"
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
