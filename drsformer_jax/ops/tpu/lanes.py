"""What Pallas kernels for TPU share: images with channels in the lanes, and sums over taps.

A kernel keeps images in fast memory (VMEM) as float32 [members, rows, columns, 128 lanes], columns
in the sublanes, zeros around them. A tap of a convolution is then one load, one multiplication and
one addition of the vector unit, and a load that is shifted along the columns costs no more.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.tpu.block_convolution import LANES

SUBLANES = 8

# Columns of zeros on the left and on the right: more than any kernel reaches, so that the image
# itself is stored aligned.
PAD = SUBLANES

# Pixels whose sums are kept in registers, 8 a register: of 64 registers these leave enough for
# what is loaded.
PIXELS_AT_A_TIME = 128

MIB = 2**20

# Of the fast memory, kernels leave some to the compiler.
VMEM_SHARE = 0.95

# What is assumed where there is no TPU to ask, v5e's and v6e's.
DEFAULT_VMEM_MIB = 128

_interpreted = contextvars.ContextVar("interpreted", default=False)


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """Kernels that are traced inside are interpreted, on any platform: slow, and for tests.

    Memory that a kernel does not write is NaN.
    """
    token = _interpreted.set(True)
    try:
        yield
    finally:
        _interpreted.reset(token)


def call(
    kernel: Callable[..., None],
    *,
    name: str,
    grid: tuple[int, ...],
    in_specs: Sequence[pl.BlockSpec],
    out_specs: Any,
    out_shape: Any,
    scratch_shapes: Sequence[Any],
    vmem_bytes: int,
    in_place: bool = False,
) -> Callable[..., Any]:
    """`pl.pallas_call` of a kernel whose first grid axis goes over what is independent.

    Args:
      name: letters, digits and underscores, another one for other shapes: the kernel's cycles are
        found under it (`planning.kernel_cycles`).
      vmem_bytes: of fast memory that it may have.
      in_place: the first result takes the place of the first operand in device memory.
    """
    semantics: list[Any] = ["parallel", *["arbitrary"] * (len(grid) - 1)]
    interpreted = _interpreted.get()
    function: Callable[..., Any] = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=scratch_shapes,
        input_output_aliases={0: 0} if in_place else {},
        compiler_params=pltpu.CompilerParams(
            vmem_limit_bytes=vmem_bytes, dimension_semantics=semantics
        ),
        interpret=pltpu.InterpretParams(uninitialized_memory="nan") if interpreted else False,
        name=name,
    )
    return function


def vmem_bytes(how: Execution) -> int:
    """Bytes of fast memory that a kernel may have."""
    mib = how.vmem
    if mib is None and how.platform is None and jax.default_backend() == "tpu":
        mib = pltpu.get_tpu_info().vmem_capacity_bytes // MIB
    return int(VMEM_SHARE * MIB * (mib or DEFAULT_VMEM_MIB))


def products(how: Execution) -> lax.Precision:
    """The precision of products in a kernel, for which there are two only."""
    return lax.Precision.DEFAULT if how.products is None else lax.Precision.HIGHEST


def product(a: jax.Array, b: jax.Array, precision: lax.Precision) -> jax.Array:
    """N K and K M -> N M, float32."""
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def product_transposed(a: jax.Array, b: jax.Array, precision: lax.Precision) -> jax.Array:
    """N K and M K -> N M, float32."""
    dimensions = (((1,), (1,)), ((), ()))
    return lax.dot_general(
        a, b, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def product_over_pixels(a: jax.Array, b: jax.Array, precision: lax.Precision) -> jax.Array:
    """N I and N J -> I J, float32."""
    dimensions = (((0,), (0,)), ((), ()))
    return lax.dot_general(
        a, b, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def added(parts: Iterable[jax.Array]) -> jax.Array:
    """The sum of some arrays; `sum` would add them to 0."""
    return functools.reduce(operator.add, parts)


def filled(channels: int, to: int = LANES) -> int:
    """Channels as they are kept: whole registers."""
    return -(-channels // to) * to


def rows_at_a_time(rows: int, width: int, pixels: int) -> int:
    """The most rows of about so many pixels that divide all rows; at least one."""
    return next(n for n in range(min(max(pixels // width, 1), rows), 0, -1) if rows % n == 0)


def column_parts(width: int, pixels: int) -> list[tuple[int, int]]:
    """Starts and lengths of the parts of a row, each of so many pixels or fewer."""
    return [(start, min(pixels, width - start)) for start in range(0, width, pixels)]


def each(count: int, body: Callable[[Any], None]) -> None:
    """A loop of so many rounds."""

    def step(index: Any, _: Any) -> Any:
        body(index)
        return 0

    lax.fori_loop(0, count, step, 0)


def frame(ref: Any, rows: int) -> None:
    """Zeros around the image: `rows` rows above and below, PAD columns left and right.

    Args:
      ref: members, rows, columns, lanes.
    """
    members, height, width, lanes = ref.shape
    row = jnp.zeros((width, lanes), ref.dtype)
    column = jnp.zeros((PAD, lanes), ref.dtype)
    for member in range(members):
        for i in (*range(rows), *range(height - rows, height)):
            ref[member, i] = row

        def sides(i: Any, member: int = member) -> None:
            ref[member, i, 0:PAD, :] = column
            ref[member, i, width - PAD : width, :] = column

        each(height, sides)


def clear_rows_outside(ref: Any, count: int, offset: int, first: Any, last: Any) -> None:
    """Zeros in those of `count` rows, from row `offset` on, that are before `first` or not before
    `last`; the columns of the frame are zero already."""
    members, _, width, lanes = ref.shape

    def clear(i: Any) -> None:
        @pl.when((i < first) | (i >= last))
        def _() -> None:
            for member in range(members):
                ref[member, i + offset] = jnp.zeros((width, lanes), ref.dtype)

    each(count, clear)
