"""Depthwise convolution, the one grouped convolution of the whole network.

XLA's own grouped convolution is 10 to 30 times slower than memory allows on CPU, and a grouped
convolution with two inputs a group makes the partitioner gather the whole batch. So there is one
operation, which takes another form on each platform, with a hand-written VJP. MSFN's
grouped convolution, with two neighbouring channels to an output, is the same with two members.

Images may carry a border of zeros, so that convolutions in a row share one padding: what would be
the padding of the second is written by the first. Convolutions of one image share one, too, where
all ask for the same `padding`: the compiler finds that it is one and the same.

Where the rows of an image are split over devices (`ops.rows`), the border is above and below and
holds rows of the neighbours. Nothing is cleared then, neither there nor in its gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.execution import CPU, TPU, target
from drsformer_jax.ops.outlining import called
from drsformer_jax.ops.taps import accumulation_dtype, clear_border, tap, with_border
from drsformer_jax.ops.tpu.block_convolution import depthwise_by_blocks


class Borders(NamedTuple):
    """Pixels of zeros around an image, on each side."""

    before: int = 0
    after: int = 0


NO_BORDERS = Borders()


class _Geometry(NamedTuple):
    """What is fixed of a convolution when it is traced."""

    dilation: int
    borders: Borders
    precision: lax.PrecisionLike
    padding: int  # around the image, where it is padded at all, the border counted in
    is_filled: bool  # the border is not zero
    platform: str
    spread: int = 1  # channels of the result that read the same one of the image

    def clear(self, x: jax.Array) -> jax.Array:
        """x with its border as the result is to carry it."""
        return x if self.is_filled else clear_border(x, self.borders.after)

    def turned(self, kernel: jax.Array) -> _Geometry:
        """Of the input gradient, which is the same operation with the kernel turned round."""
        borders = Borders(self.borders.after, self.borders.before)
        padding = _padding(kernel, self.dilation, borders)
        return self._replace(borders=borders, padding=padding, spread=kernel.shape[2])


def _padding(kernel: jax.Array, dilation: int, borders: Borders) -> int:
    """Pixels around the image that a kernel kh kw ... needs for its border and its result's."""
    reach = (max(kernel.shape[:2]) // 2) * dilation
    return max(borders.before, borders.after + reach)


@functools.cache
def _shift_and_add(dilation: int, border: int, spread: int = 1) -> Callable[..., jax.Array]:
    """One shifted multiply-add a kernel element and member; XLA fuses them into a single pass.

    The function takes an image with `border` more pixels than its result on each side. Each of its
    channels is read by `spread` neighbouring ones of the result. It may be given a one for each row
    of the kernel, to be multiplied with its sum.
    """

    # Written with lax: a training step traces thousands of these, and jnp checks each of them.
    def convolve(x: jax.Array, kernel: jax.Array, ones: jax.Array | None = None) -> jax.Array:
        rows, columns, members, channels = kernel.shape
        size = (x.shape[2] - 2 * border, x.shape[3] - 2 * border)
        dtype = accumulation_dtype(x.dtype)
        wide, kernel = x.astype(dtype), kernel.astype(dtype)
        # With an axis of its own for the channels that read the same one.
        spreads = (spread,) if spread > 1 else ()
        shape = (x.shape[0], channels // spread, *spreads, *size)
        of_weight = tuple(range(2 + len(spreads)))
        of_view = (0, 1, len(shape) - 2, len(shape) - 1)

        count = rows * columns * members
        weights = lax.split(lax.reshape(kernel, (count, *shape[1:-2])), [1] * count)

        def term(i: int, j: int, p: int) -> jax.Array:
            offset = (border + (i - rows // 2) * dilation, border + (j - columns // 2) * dilation)
            weight = weights[(i * columns + j) * members + p]
            weight = lax.broadcast_in_dim(weight, shape, of_weight)
            view = tap(wide, offset, size, p, members)
            if spreads:
                view = lax.broadcast_in_dim(view, shape, of_view)
            return lax.mul(view, weight)

        # Each row of the kernel has a sum of its own: one long chain of additions would wait for
        # each of them.
        row_sums = [
            functools.reduce(
                lax.add, [term(i, j, p) for j in range(columns) for p in range(members)]
            )
            for i in range(rows)
        ]
        if ones is not None:
            row_sums = [
                lax.mul(row_sum, lax.broadcast_in_dim(ones[i], shape, ()))
                for i, row_sum in enumerate(row_sums)
            ]
        total = functools.reduce(lax.add, row_sums).astype(x.dtype)
        return lax.reshape(total, (x.shape[0], channels, *size)) if spreads else total

    return convolve


# Of the same function always the same object: what is called with the same shapes is one program.
_called = functools.cache(called)


def _on_cpu(
    x: jax.Array, kernel: jax.Array, geometry: _Geometry, differentiated: bool
) -> jax.Array:
    before, after = geometry.borders
    padded = with_border(x, before, geometry.padding)
    convolve = _shift_and_add(geometry.dilation, geometry.padding - after, geometry.spread)
    if after and not differentiated:
        # One other convolution reads this: let XLA fuse what lies between. (The backward pass has
        # more readers, and fusion computes the whole convolution again for each.)
        return geometry.clear(convolve(padded, kernel))
    # A training step is compiled to take sums in any order, and the compiler would make one chain
    # of all rows again. It cannot where each is multiplied with a number of its own, not known to
    # it: nearly twice as fast, and the same result.
    ones = jnp.ones(kernel.shape[0], accumulation_dtype(x.dtype))
    return geometry.clear(_called(convolve)(padded, kernel, ones))


def _on_gpu(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    """Shift-and-add of an image that is padded in memory.

    XLA would compute the padding, and with it whatever made the image, anew for every kernel
    element.
    """
    before, after = geometry.borders
    padded = lax.optimization_barrier(with_border(x, before, geometry.padding))
    convolve = _shift_and_add(geometry.dilation, geometry.padding - after, geometry.spread)
    return geometry.clear(convolve(padded, kernel))


def _on_tpu(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    dilation, (before, after), precision = geometry[:3]
    members, spread = kernel.shape[2], geometry.spread
    # A border of zeros is what the convolution pads with by itself.
    kept = max(before, after) if geometry.is_filled else 0
    x = with_border(x, before, kept)
    results = [
        functools.reduce(
            jnp.add,
            [
                depthwise_by_blocks(
                    x[:, p::members], kernel[:, :, p, s::spread], dilation, precision
                )
                for p in range(members)
            ],
        )
        for s in range(spread)
    ]
    total = jnp.stack(results, axis=2).reshape(x.shape[0], -1, *x.shape[2:])
    return with_border(total, kept, after)


@functools.partial(jax.jit, static_argnames=("geometry", "differentiated"))
def _convolve(
    x: jax.Array, kernel: jax.Array, geometry: _Geometry, differentiated: bool
) -> jax.Array:
    if geometry.platform == CPU:
        return _on_cpu(x, kernel, geometry, differentiated)
    return (_on_tpu if geometry.platform == TPU else _on_gpu)(x, kernel, geometry)


def _first_tap(x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int) -> list[int]:
    """Row and column of x at which the view of kernel element 0, 0 begins."""
    return [
        (x.shape[2 + axis] - cotangent.shape[2 + axis]) // 2 - (kernel.shape[axis] // 2) * dilation
        for axis in (0, 1)
    ]


def kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, dilation: int
) -> jax.Array:
    """d loss / d kernel: for each element the sum over B, H, W of a shifted image times cotangent.

    Memory alone bounds it. All elements are one reduction with as many operands: image and
    cotangent are read once. Only the columns are summed there. One running sum over all pixels
    would be as quick but lose a digit in float32.

    Args:
      x: B (members G) H W, what was convolved, with at least as much padding on each side as the
        kernel reaches out.
      cotangent: B G h w, d loss / d output, without any.
      kernel: kh kw members G, for its shape and dtype.
      dilation: distance between kernel elements, in pixels.

    Returns:
      kh kw members G in the dtype of the kernel; sums are taken in at least float32.
    """
    height, width, members, _ = kernel.shape
    dtype = accumulation_dtype(x.dtype)
    size = (cotangent.shape[2], cotangent.shape[3])
    top, left = _first_tap(x, cotangent, kernel, dilation)
    x, cotangent = x.astype(dtype), cotangent.astype(dtype)
    gradients = []
    for p in range(members):
        products = [
            lax.mul(tap(x, (top + i * dilation, left + j * dilation), size, p, members), cotangent)
            for i in range(height)
            for j in range(width)
        ]
        rows = lax.reduce(
            products,
            [jnp.zeros((), dtype)] * len(products),
            lambda totals, values: list(map(lax.add, totals, values)),
            dimensions=(3,),
        )
        # One sum for all elements: one each would be half of all kernels in a training step.
        gradients.append(jnp.sum(jnp.stack(rows), axis=(1, 3)))
    gradient = jnp.stack(gradients, axis=1)
    return gradient.reshape(kernel.shape).astype(kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _grouped_conv(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    """kernel is kh kw members G, x B (members G) H W, the result B G H W."""
    return _convolve(x, kernel, geometry, differentiated=False)


def _grouped_conv_forward(
    x: jax.Array, kernel: jax.Array, geometry: _Geometry
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, geometry, differentiated=True), (x, kernel)


@functools.partial(jax.jit, static_argnums=0)
def _grouped_conv_backward(
    geometry: _Geometry, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    before, after = geometry.borders
    turned = geometry.turned(kernel)  # for the kernel is odd and centred
    height, width, members, groups = kernel.shape
    spread = jnp.swapaxes(kernel[::-1, ::-1], 2, 3).reshape(height, width, 1, groups * members)
    x_gradient = _convolve(cotangent, spread, turned, differentiated=True)
    if geometry.platform == TPU:
        return x_gradient, jax.vjp(lambda k: _on_tpu(x, k, geometry), kernel)[1](cotangent)[0]
    # In a border of zeros the cotangent is zero, too.
    kept = after if geometry.is_filled else 0
    padded = with_border(x, before, geometry.padding)
    cotangent = with_border(cotangent, after, kept)
    return x_gradient, kernel_gradient(padded, cotangent, kernel, geometry.dilation)


_grouped_conv.defvjp(_grouped_conv_forward, _grouped_conv_backward)


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    precision: lax.PrecisionLike = None,
    borders: Borders = NO_BORDERS,
    *,
    dilation: int = 1,
    padding: int = 0,
    has_halo: bool = False,
    platform: str | None = None,
) -> jax.Array:
    """Output channel g reads the input channels g * members + p; stride 1, zero padding, same size.

    Args:
      x: B (members G) H W, with a border of `borders.before` pixels of zeros on each side counted
        in.
      kernel: kh kw members G, both sizes odd; kernel[:, :, p, g] weighs channel g * members + p.
      precision: of the products where a platform's convolution library has a choice.
      borders: what x carries, and what the result is to carry. The cotangent of the result must
        be zero in its border, as that of another such convolution is.
      dilation: distance between kernel elements, in pixels.
      padding: pixels of zeros that x is padded with at least, where it is padded at all (not on
        TPU): the most that one of several convolutions of the same image needs.
      has_halo: the borders are rows above and below, of an image that goes on there; neither x
        nor the result has more columns than the image.
      platform: that the program is for, see `ops.execution`.

    Returns:
      B G H W with the border asked for, in the dtype of x; shift-and-add sums are taken in at
      least float32.

    Raises:
      ValueError: an even kernel size, or another number of channels than the image has.
    """
    height, width, members, groups = kernel.shape
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"kernel sizes must be odd, not {height}x{width}")
    if members * groups != x.shape[1]:
        raise ValueError(f"kernel for {members * groups} channels, image with {x.shape[1]}")
    padding = max(padding, _padding(kernel, dilation, borders))
    geometry = _Geometry(dilation, borders, precision, padding, has_halo, target(platform))
    if not has_halo:
        return _grouped_conv(x, kernel, geometry)
    # Beside the image there is nothing: zeros, and what a convolution makes of them is cut off.
    before, after = borders
    x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (before, before)])
    y = _grouped_conv(x, kernel, geometry)
    return y[..., after : y.shape[3] - after]
