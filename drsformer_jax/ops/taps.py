"""How a depthwise convolution reads its image: a border of zeros, one view a kernel element."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import export, lax


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Taps are summed in at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def with_border(x: jax.Array, have: int, want: int) -> jax.Array:
    """B C H W with `have` pixels of zeros around it -> with `want` of them, perhaps fewer."""
    if have == want:
        return x
    more = (want - have, want - have, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), more, more))


def clear_border(x: jax.Array, border: int) -> jax.Array:
    """B C H W with zeros in the outermost `border` pixels on each side."""
    if border == 0:
        return x
    if any(map(export.is_symbolic_dim, x.shape)):
        return jnp.where(_are_inside(x.shape, border), x, jnp.zeros((), x.dtype))
    # A constant of the program: a comparison of coordinates would be repeated for every channel.
    with jax.ensure_compile_time_eval():
        inside = jnp.pad(jnp.ones([n - 2 * border for n in x.shape[2:]], x.dtype), border)
    return x * inside


def _are_inside(shape: tuple[int, ...], border: int) -> jax.Array:
    """Which pixels are not of the border, of an image whose size is not known yet: H W, bool."""
    rows, columns = (
        (lax.iota(jnp.int32, size) >= border) & (lax.iota(jnp.int32, size) < size - border)
        for size in shape[2:]
    )
    return rows[:, None] & columns


def tap(
    x: jax.Array,
    offset: tuple[int, int],
    size: tuple[int, int],
    member: int = 0,
    members: int = 1,
) -> jax.Array:
    """The view that one kernel element multiplies.

    Args:
      x: B C H W.
      offset: row and column at which the view begins.
      size: its height and width.
      member, members: it holds the channels member, member + members, member + 2 members ...
    """
    batch, channels = x.shape[:2]
    (row, column), (height, width) = offset, size
    limits = (batch, channels, row + height, column + width)
    return lax.slice(x, (0, member, row, column), limits, (1, members, 1, 1))
