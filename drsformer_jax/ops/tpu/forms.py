"""The modules that have a form of their own for TPU, from the same parameters.

Each has one for the matrix unit, which XLA compiles. Some have a Pallas kernel beside it: faster by
its schedule, and taken where `Execution.kernels` says so and the kernel can compute what it is
given.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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


_refusals: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "refusals", default=None
)


class Kernel(NamedTuple):
    """A form by a kernel, and why it cannot compute what it is given: in words, or None."""

    form: Callable[..., Any]
    why_not: Callable[..., str | None]


@functools.cache
def kernels() -> dict[str, Kernel]:
    """By the class of the module; Pallas is imported where a program is made for TPU only."""
    from drsformer_jax.ops.tpu import block_kernel, mefc_kernel, msfn_kernel, tksa_kernel

    return {
        "FeatureCompensator": Kernel(mefc_kernel.mixture_by_kernel, mefc_kernel.why_not),
        "NormalisedAttention": Kernel(tksa_kernel.attention_by_kernel, tksa_kernel.why_not),
        "NormalisedFeedForward": Kernel(msfn_kernel.feed_forward_by_kernel, msfn_kernel.why_not),
        "SparseTransformerBlock": Kernel(block_kernel.block_by_kernels, block_kernel.why_not),
    }


@functools.cache
def kernels_of_many() -> dict[str, Kernel]:
    """By the class of modules that follow one after the other: parameters come stacked."""
    from drsformer_jax.ops.tpu import block_kernel

    return {
        "SparseTransformerBlock": Kernel(
            block_kernel.blocks_by_kernels, block_kernel.why_not_blocks
        ),
    }


def find(module: str, how: Execution, many: bool = False) -> Callable[..., Any] | None:
    """The form of a module, by its class; None where there is none for the platform.

    It returns None where the module has a kernel alone, which cannot compute what it is given.

    many: of modules that follow one after the other, of which each has a form, too.
    """
    if how.target != TPU:
        return None
    form = None if many else FORMS.get(module)
    known = kernels_of_many() if many else kernels()
    kernel = known.get(module) if how.takes_kernel(module) else None
    if kernel is None:
        return form

    def kernel_or_form(*arguments: Any) -> Any:
        reason = kernel.why_not(*arguments)
        if reason is None:
            return kernel.form(*arguments)
        if not many and (reasons := _refusals.get()) is not None:
            reasons.append(reason)
        return None if form is None else form(*arguments)

    return kernel_or_form


@contextlib.contextmanager
def refusals() -> Iterator[list[str]]:
    """Why kernels were not taken in what is traced inside, though asked for."""
    reasons: list[str] = []
    token = _refusals.set(reasons)
    try:
        yield reasons
    finally:
        _refusals.reset(token)
