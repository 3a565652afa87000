"""Images as Pallas kernels for TPU take them: several in the 128 lanes, cut into strips of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from drsformer_jax.ops.rows import RowShards, positions, with_neighbours
from drsformer_jax.ops.tpu.block_convolution import LANES


def images_in_lanes(batch: int, channels: int) -> int:
    """How many images share the lanes: two of up to 64 channels, or one."""
    return 2 if batch > 1 and 2 * channels <= LANES else 1


def into_lanes(x: jax.Array, images: int) -> jax.Array:
    """B H W C -> N H W LANES, `images` of them side by side; what is not filled is zero."""
    batch, height, width, channels = x.shape
    count = -(-batch // images)
    fill = [(0, count * images - batch), (0, 0), (0, 0), (0, LANES // images - channels)]
    together = jnp.pad(x, fill).reshape(count, images, height, width, -1)
    return jnp.moveaxis(together, 1, 3).reshape(count, height, width, LANES)


def out_of_lanes(x: jax.Array, images: int, batch: int, channels: int) -> jax.Array:
    """The inverse: N H W LANES -> B H W C."""
    count, height, width, lanes = x.shape
    apart = jnp.moveaxis(x.reshape(count, height, width, images, lanes // images), 3, 1)
    return apart.reshape(count * images, height, width, -1)[:batch, ..., :channels]


def vector_in_lanes(x: jax.Array, images: int) -> jax.Array:
    """... C -> ... LANES, the same for all images."""
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, LANES // images - x.shape[-1])])
    return jnp.tile(filled, (1,) * (x.ndim - 1) + (images,))


def matrices_in_lanes(x: jax.Array) -> jax.Array:
    """... images C D -> ... LANES LANES: each image's matrix on the diagonal."""
    images, inputs, outputs = x.shape[-3:]
    size = LANES // images
    fill = [(0, 0)] * (x.ndim - 2) + [(0, size - inputs), (0, size - outputs)]
    squares = jnp.pad(x, fill)[..., :, :, None, :]
    diagonal = squares * jnp.eye(images, dtype=x.dtype)[:, None, :, None]
    return diagonal.reshape(*x.shape[:-3], LANES, LANES)


def cut_into_strips(x: jax.Array, height: int, halo: int, rows: RowShards | None) -> jax.Array:
    """N H W C -> N strips height+2*halo W C: each strip between the rows above and below it.

    Args:
      height: of a strip; divides H, and is H or at least the halo.
      halo: 0 where the strip is the whole image.
      rows: how rows are split over devices; then the halo of the first and the last strip is the
        neighbours'. Where the image ends it is zero.
    """
    if halo == 0:
        return x[:, None]
    if rows is None:
        x = jnp.pad(x, ((0, 0), (halo, halo), (0, 0), (0, 0)))
    else:
        x = with_neighbours(x, halo, rows, axis=1)
    if x.shape[1] == height + 2 * halo:
        return x[:, None]
    own = x[:, halo:-halo].reshape(x.shape[0], -1, height, *x.shape[2:])
    above = jnp.concatenate([x[:, None, :halo], own[:, :-1, -halo:]], axis=1)
    below = jnp.concatenate([own[:, 1:, :halo], x[:, None, -halo:]], axis=1)
    return jnp.concatenate([above, own, below], axis=2)


def rows_of_strips(
    height: int, strip: int, above: int, rows: RowShards | None
) -> tuple[jax.Array, int]:
    """Which row of the whole image each row of each strip is, `above` more on both sides.

    Args:
      height: of the image, or of a device's band of it.

    Returns:
      int32 strips strip+2*above, and the height of the whole image.
    """
    first = 0 if rows is None else positions(rows, height)[0]
    starts = first + jnp.arange(0, height, strip)[:, None]
    total = height if rows is None else rows.level_height(height)
    return starts + jnp.arange(-above, strip + above), total


def rows_inside(height: int, strip: int, above: int, rows: RowShards | None) -> jax.Array:
    """Whether those rows are of the image: float32 strips strip+2*above 1 LANES."""
    row, total = rows_of_strips(height, strip, above, rows)
    inside = ((row >= 0) & (row < total)).astype(jnp.float32)
    return jnp.broadcast_to(inside[:, :, None, None], (*inside.shape, 1, LANES))
