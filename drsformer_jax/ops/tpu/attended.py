"""What the second pass of sparse attention (TKSA) adds to an image, before it is added."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from drsformer_jax.ops.image import Image


class Attended(NamedTuple):
    """matrix @ value + bias of every pixel: the attention map and the projection behind it.

    Of an image, or references to the same inside a kernel.

    Attributes:
      values: B H W L, what is not filled being zero.
      matrices: B C L, at least float32.
      bias: 1 C, zero where the projection has none.
    """

    values: Any
    matrices: Any
    bias: Any


def added_to(image: Image, attended: Attended) -> Image:
    """x + what is attended, as XLA computes it; image: B C H W."""
    values, precision = attended.values, image.how.products
    y = jnp.einsum(
        "bhwl,bdl->bhwd",
        values,
        attended.matrices.astype(values.dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    y = y + jnp.moveaxis(image.array, 1, -1).astype(y.dtype) + attended.bias
    return image.map(lambda x: jnp.moveaxis(y.astype(x.dtype), -1, 1))
