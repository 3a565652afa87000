"""`ops.rows` on eight CPU devices against the whole image; a program, silent if all is right."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from drsformer_jax.ops.attention_map import global_cosines
from drsformer_jax.ops.rows import (
    RowShards,
    clear_outside,
    clear_padding,
    global_sum,
    with_neighbours,
    without_neighbours,
)

AXIS = "rows"
# Height in full resolution, devices, and rows of a band at the level that is looked at: all bands
# full, one partly of padding, one of nothing else, bands of one row, of two, and a single device.
SPLITS = [(64, 2, 32), (328, 4, 11), (40, 4, 16), (64, 8, 1), (56, 4, 2), (40, 1, 5)]
REACHES = [1, 2, 4, 6]


def bands_of(image: np.ndarray, rows: RowShards, band: int, filling: float) -> np.ndarray:
    """B C H W -> devices B C band W, padding rows filled."""
    missing = band * rows.count - image.shape[2]
    padded = np.pad(image, ((0, 0), (0, 0), (0, missing), (0, 0)), constant_values=filling)
    return np.stack(np.split(padded, rows.count, axis=2))


def on_devices(function: Callable[..., Any], rows: RowShards) -> Callable[..., Any]:
    """A function of bands, for all of them on a leading axis."""
    devices = jax.devices()[: rows.count]
    mesh = jax.make_mesh((rows.count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)

    def one(*bands: Any) -> Any:
        return jax.tree.map(lambda y: y[None], function(*(band[0] for band in bands)))

    each = PartitionSpec(AXIS)
    return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=each, out_specs=each, check_vma=False))


def an_image(rows: RowShards, band: int, seed: int = 0) -> np.ndarray:
    height = rows.level_height(band)
    return np.random.default_rng(seed).normal(size=(2, 4, height, 6))


def check_neighbours(rows: RowShards, band: int) -> None:
    """Rows of the neighbours, and what comes back from them, for every reach."""
    image = an_image(rows, band)
    whole = np.concatenate(list(bands_of(image, rows, band, 0)), axis=2)
    rng = np.random.default_rng(1)

    def views(image: np.ndarray, reach: int) -> list[np.ndarray]:
        """Of a padded image, what each device sees."""
        starts = range(0, rows.count * band, band)
        return [image[:, :, start : start + band + 2 * reach] for start in starts]

    weights = [rng.normal(size=(rows.count, 2, 4, band + 2 * reach, 6)) for reach in REACHES]

    def both(x: jax.Array, *weights: jax.Array) -> Any:
        results = []
        for reach, weight in zip(REACHES, weights, strict=True):
            y, pull_back = jax.vjp(functools.partial(with_neighbours, reach=reach, rows=rows), x)
            results.append((y, pull_back(weight)[0]))
        return results

    results = on_devices(both, rows)(bands_of(image, rows, band, np.nan), *weights)
    for reach, weight, (actual, gradient) in zip(REACHES, weights, results, strict=True):
        padded = np.pad(whole, ((0, 0), (0, 0), (reach, reach), (0, 0)))
        np.testing.assert_array_equal(actual, views(padded, reach))
        total = np.zeros_like(padded)
        for view, part in zip(views(total, reach), weight, strict=True):
            view += part
        inside = total[:, :, reach : reach + image.shape[2]]
        np.testing.assert_allclose(gradient, bands_of(inside, rows, band, 0), atol=1e-14)


def check_clearing(rows: RowShards, band: int) -> None:
    """NaN in padding rows goes nowhere, and what is made outside the image is taken away."""
    image = an_image(rows, band)

    def clear(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = clear_outside(with_neighbours(x, 2, rows) + 1, rows, 2)
        return clear_padding(x, rows), wide

    cleared, wide = on_devices(clear, rows)(bands_of(image, rows, band, np.nan))
    np.testing.assert_array_equal(cleared, bands_of(image, rows, band, 0))
    height = rows.level_height(band)
    whole = np.pad(image + 1, ((0, 0), (0, 0), (2, band * rows.count - height + 2), (0, 0)))
    for i in range(rows.count):
        np.testing.assert_array_equal(wide[i], whole[:, :, i * band : (i + 1) * band + 4])
        np.testing.assert_array_equal(
            without_neighbours(wide[i], 2), whole[:, :, i * band + 2 : (i + 1) * band + 2]
        )


def check_sums(rows: RowShards, band: int) -> None:
    query, key = an_image(rows, band), an_image(rows, band, seed=1)

    def sums(query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = global_sum(jnp.sum(query), rows)
        query, key = (y.reshape(2, 1, 4, -1) for y in (query, key))
        products = jnp.einsum("bhin,bhjn->bhij", query, key)
        squares = jnp.sum(jnp.square(query), axis=-1), jnp.sum(jnp.square(key), axis=-1)
        return total, global_cosines(products, squares, rows)

    total, actual = on_devices(sums, rows)(*(bands_of(y, rows, band, 0) for y in (query, key)))
    np.testing.assert_allclose(total, [query.sum()] * rows.count)
    query, key = (y.reshape(2, 4, -1) for y in (query, key))
    query, key = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (query, key))
    expected = np.einsum("bin,bjn->bij", query, key)[None, :, None]
    np.testing.assert_allclose(actual, np.repeat(expected, rows.count, 0), rtol=0, atol=1e-14)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for height, count, band in SPLITS:
        for check in (check_neighbours, check_clearing, check_sums):
            check(RowShards(AXIS, count, height), band)
