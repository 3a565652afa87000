"""Networks that tests can afford."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image

# Every level has another number of channels or heads, and one has two blocks to stack.
TINY: dict[str, Any] = {"dim": 8, "num_blocks": (1, 2, 1, 1), "heads": (1, 2, 2, 4)}


def on_image(module: nn.Module, **execution: Any) -> Callable[[Any, jax.Array], jax.Array]:
    """A module as a function of its parameters and B C H W, computed as the options say."""
    how = Execution(**execution)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        y = module.apply({"params": params}, Image(x, how))
        array: jax.Array = jax.tree.leaves(y)[0]  # a block returns (image, nothing)
        return array

    return apply
