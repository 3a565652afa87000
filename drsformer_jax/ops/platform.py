"""Which platform a program is traced for: operations take another form on each."""

from __future__ import annotations

import jax

CPU, GPU, TPU = "cpu", "gpu", "tpu"


def target(platform: str | None) -> str:
    """`platform`, or where it is None the one that JAX runs on: "cpu", "gpu" or "tpu".

    The form is chosen when an operation is traced. `jax.lax.platform_dependent` would leave it to
    the lowering, but then every form is traced, differentiated and recomputed on the way there:
    nearly half of the time before the compiler gets a training step.
    """
    return platform or jax.default_backend()
