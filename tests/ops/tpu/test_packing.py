"""Images in lanes and in strips of rows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.ops.tpu.packing import (
    cut_into_strips,
    images_in_lanes,
    into_lanes,
    matrices_in_lanes,
    out_of_lanes,
    vector_in_lanes,
)


@pytest.mark.parametrize(("batch", "channels", "images"), [(3, 48, 2), (1, 48, 1), (2, 65, 1)])
def test_a_product_in_lanes_is_that_of_each_image(batch: int, channels: int, images: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 2, 3, channels))
    weight, scale = rng.normal(size=(channels, 5)), rng.normal(size=channels)
    assert images_in_lanes(batch, channels) == images
    packed = into_lanes(jnp.asarray(x), images) * vector_in_lanes(jnp.asarray(scale), images)
    matrices = matrices_in_lanes(jnp.broadcast_to(weight, (images, channels, 5)))
    y = out_of_lanes(packed @ matrices, images, batch, 5)
    np.testing.assert_allclose(y, (x * scale) @ weight, rtol=0, atol=1e-4)


def test_strips_hold_the_rows_around_them() -> None:
    x = jnp.arange(1.0, 7.0)[None, :, None, None]
    strips = cut_into_strips(x, 2, 2, None)[0, :, :, 0, 0]
    expected = [[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 0]]
    np.testing.assert_array_equal(strips, expected)
    # A single one may be lower than its halo.
    single = cut_into_strips(x[:, :1], 1, 2, None)[0, :, :, 0, 0]
    np.testing.assert_array_equal(single, [[0, 0, 1, 0, 0]])
