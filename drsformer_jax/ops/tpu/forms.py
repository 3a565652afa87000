"""The modules that have a form of their own for TPU's matrix unit, from the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drsformer_jax.ops.execution import TPU, Execution
from drsformer_jax.ops.tpu.attention import mixed_from_blocks, query_key_value_by_blocks
from drsformer_jax.ops.tpu.feed_forward import mixed_scale_by_blocks
from drsformer_jax.ops.tpu.mefc import mixture_by_blocks

FORMS: dict[str, Callable[..., Any]] = {
    "TopKSparseAttention": query_key_value_by_blocks,
    "AttendAndProject": mixed_from_blocks,
    "MixedScaleFeedForward": mixed_scale_by_blocks,
    "FeatureCompensator": mixture_by_blocks,
}


def find(module: str, how: Execution) -> Callable[..., Any] | None:
    """The form of a module, by its class; None where there is none for the platform."""
    return FORMS.get(module) if how.target == TPU else None
