"""Outlining: functions that stay functions in the compiled program (the inverse of inlining).

XLA inlines every call and then fuses across what was its border. On CPU two things are better with
the border kept, by a frontend attribute of the call that its inliner respects:

- A function called many times with the same shapes, as the blocks of a level are, is compiled once.
- A convolution is not fused with the reshape of its result for a matrix product. Fused, its inner
  loop runs over the flattened pixels and finds row and column of each by division: measured, the
  3x3 convolution in front of attention takes 3 to 8 times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Function = Callable[..., Any]


def called(function: Function) -> Function:
    """`function` of arrays, every use of it a call in the compiled program; not differentiable.

    Keep the result and use it again: what it is called with twice is compiled once.
    """
    jitted = jax.jit(function)

    def call(*args: Any) -> Any:
        # The attribute goes to the operation that made the value: the call.
        return jax.tree.map(lambda y: set_xla_metadata(y, inlineable="false"), jitted(*args))

    return call


def outlined(function: Function, is_recomputed: bool = True) -> Function:
    """The same, differentiable in reverse mode: a gradient is one more call.

    Args:
      is_recomputed: only the arguments are kept for the backward pass, which runs `function`
        again: as `jax.checkpoint`, it takes memory for one call at a time. Else the backward pass
        finds what it needs of each call in memory.
    """
    forward = called(function)

    @jax.custom_vjp
    def call(*args: Any) -> Any:
        return forward(*args)

    if is_recomputed:
        backward = called(lambda args, cotangent: jax.vjp(function, *args)[1](cotangent))
        call.defvjp(lambda *args: (forward(*args), args), backward)
    else:
        keeping = called(lambda *args: jax.vjp(function, *args))
        call.defvjp(keeping, called(lambda pullback, cotangent: pullback(cotangent)))
    return call
