"""Images whose rows are split over devices: what a device must ask the others for.

Under `jax.shard_map` each of `count` devices holds a band of rows of every image, all bands of one
height, from the top to the bottom of the image. Where the height does not divide, the last bands
end in padding rows (a band may be nothing else). Most of the network looks at one pixel at a time;
what looks at neighbouring rows takes its band with some rows of its neighbours around it
(`with_neighbours`), and what sums over pixels sums over the devices too (`global_sum`).

Padding rows may hold anything: everything here that passes rows on or adds them up clears them
first. The cotangent of rows that went to a neighbour comes back from there, and that of a sum is
the sum of the cotangents: what is differentiated is the sum of the devices' local losses.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

# The network halves its resolution three times, and every band must go with it.
ROW_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class RowShards:
    """How the rows of an image are split; hashable, to be fixed when a function is traced.

    axis: the axis of the device mesh, inside `jax.shard_map`.
    count: its size.
    height: rows of the whole image in full resolution, without padding.

    Raises:
      ValueError: no devices, or a height that is no positive multiple of 8.
    """

    axis: str
    count: int
    height: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"rows are split over at least one device, not {self.count}")
        if self.height < ROW_MULTIPLE or self.height % ROW_MULTIPLE:
            raise ValueError(f"height must be a positive multiple of 8, not {self.height}")

    @property
    def band(self) -> int:
        """Rows of each device in full resolution: a multiple of 8, padding rows included."""
        return -(-self.height // (ROW_MULTIPLE * self.count)) * ROW_MULTIPLE

    @property
    def padded_height(self) -> int:
        """Rows of all devices in full resolution."""
        return self.band * self.count

    def level_height(self, band: int) -> int:
        """Rows of the whole image at the resolution at which a device has `band` rows."""
        return self.height * band // self.band


def positions(rows: RowShards, band: int, halo: int = 0) -> jax.Array:
    """Which row of the whole image each row of a device is, `halo` more at both ends: int32."""
    return lax.axis_index(rows.axis) * band - halo + jnp.arange(band + 2 * halo, dtype=jnp.int32)


def are_inside(rows: RowShards, band: int, halo: int = 0) -> jax.Array:
    """Whether each of those rows lies in the image: bool."""
    position = positions(rows, band, halo)
    return (position >= 0) & (position < rows.level_height(band))


def clear_outside(x: jax.Array, rows: RowShards, halo: int = 0, axis: int = 2) -> jax.Array:
    """Zero in all rows that are not of the image.

    What is computed there from a neighbour's rows must not reach the next convolution, whose
    padding is zero.

    Args:
      x: a band with `halo` rows of its neighbours on both sides.
      axis: of the rows.
    """
    inside = are_inside(rows, x.shape[axis] - 2 * halo, halo)
    return jnp.where(_along(inside, axis, x.ndim), x, jnp.zeros((), x.dtype))


def clear_padding(x: jax.Array, rows: RowShards, axis: int = 2) -> jax.Array:
    """Zero in the padding rows of a band; nothing to do where the height divides."""
    return x if rows.padded_height == rows.height else clear_outside(x, rows, axis=axis)


def with_neighbours(x: jax.Array, reach: int, rows: RowShards, axis: int = 2) -> jax.Array:
    """The band between `reach` rows of the bands above and below; zeros where the image ends.

    Two messages where a band has at least so many rows, else two for each neighbour on a side.

    Args:
      x: a band, its rows along `axis`.
      reach: rows that are added on both sides.
    """
    if reach == 0:
        return x
    x = clear_padding(x, rows, axis)
    band = x.shape[axis]
    above: list[jax.Array] = []
    below: list[jax.Array] = []
    # A band may be lower than the reach: then rows of the ones behind it are needed as well.
    for distance, start in enumerate(range(0, reach, band), start=1):
        number = min(band, reach - start)
        last = lax.slice_in_dim(x, band - number, band, axis=axis)
        first = lax.slice_in_dim(x, 0, number, axis=axis)
        above.insert(0, _from_device(last, -distance, rows))
        below.append(_from_device(first, distance, rows))
    return jnp.concatenate([*above, x, *below], axis=axis)


def without_neighbours(x: jax.Array, halo: int, axis: int = 2) -> jax.Array:
    """The band alone."""
    return lax.slice_in_dim(x, halo, x.shape[axis] - halo, axis=axis)


def global_sum(x: jax.Array, rows: RowShards) -> jax.Array:
    """The sum over the devices, on each of them."""
    return lax.psum(x, rows.axis)


def _from_device(x: jax.Array, distance: int, rows: RowShards) -> jax.Array:
    """The x of the device `distance` farther down (or, negative, up); zeros if there is none."""
    receivers = range(max(0, -distance), min(rows.count, rows.count - distance))
    if not receivers:
        return jnp.zeros_like(x)
    return lax.ppermute(x, rows.axis, [(i + distance, i) for i in receivers])


def _along(x: jax.Array, axis: int, ndim: int) -> jax.Array:
    """A vector that broadcasts along one axis of an array."""
    return lax.expand_dims(x, [i for i in range(ndim) if i != axis])
