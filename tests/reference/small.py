"""Networks that tests can afford, and how to compile them."""

from __future__ import annotations

import functools
from typing import Any

import jax

# Every level has another number of channels or heads, and one has two blocks to stack.
TINY: dict[str, Any] = {"dim": 8, "num_blocks": (1, 2, 1, 1), "heads": (1, 2, 2, 4)}

# Whole networks take long to compile, and most of that is optimisation, which is not tested.
QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
