"""How a forward is compiled, for one image, several, or bands of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled_for_inference(restore: Callable[[Any, Any], Any]) -> Any:
    """jit of a function of (params, image).

    On CPU with LLVM's first level of optimisation: it vectorises what higher ones do, and the
    network runs as fast after compiling for a shorter time (benchmarks/README.md).
    """
    import jax

    on_cpu = jax.default_backend() == "cpu"
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "1"} if on_cpu else {}
    return jax.jit(restore, compiler_options=options)
