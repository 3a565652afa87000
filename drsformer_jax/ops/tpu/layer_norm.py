"""LayerNorm inside Pallas kernels for TPU: pixels C in float32, and the gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.tpu.lanes import SUBLANES
from drsformer_jax.ops.tpu.tiles import Ref


class Normalised(NamedTuple):
    """LayerNorm of some pixels: pixels C, and pixels 1, float32."""

    value: jax.Array
    centred: jax.Array
    inverse_deviation: jax.Array


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """As `ops.layer_norm` defines it; hashable.

    Attributes:
      centres: whether the mean is subtracted and there is a bias.
      epsilon: added to the variance.
    """

    centres: bool
    epsilon: float

    @classmethod
    def of(cls, params: Mapping[str, Any], epsilon: float) -> LayerNorm:
        """params: of `models.layers.LayerNorm`."""
        return cls("bias" in params, epsilon)

    @property
    def rows(self) -> int:
        """Of the weights: the scale, and the bias where there is one."""
        return 1 + self.centres

    def packed(self, params: Mapping[str, Any]) -> jax.Array:
        """The weights, rows C."""
        return jnp.stack([params[name] for name in ("scale", "bias")[: self.rows]])

    def apply(self, x: jax.Array, weights: Ref) -> Normalised:
        """x: pixels C; weights: rows C."""
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        inverse = lax.rsqrt(variance + self.epsilon)
        centred = centred * inverse
        value = (centred if self.centres else x * inverse) * weights[0:1, :]
        if self.centres:
            value = value + weights[1:2, :]
        return Normalised(value, centred, inverse)

    def pull_back(self, x: jax.Array, weights: Ref, gradient: jax.Array, sums: Ref) -> jax.Array:
        """The gradient of x; adds to those of the weights.

        Args:
          x: pixels C.
          gradient: of the value, pixels C.
          sums: rows 8 C, sums over pixels but for 8.
        """
        _, centred, inverse = self.apply(x, weights)
        along = gradient * (centred if self.centres else x * inverse)
        scaled = gradient * weights[0:1, :]
        scaled_along = along * weights[0:1, :]
        back = scaled - centred * jnp.mean(scaled_along, axis=-1, keepdims=True)
        if self.centres:
            back = back - jnp.mean(scaled, axis=-1, keepdims=True)
        for i, values in enumerate((along, gradient)[: self.rows]):
            part = jnp.sum(values.reshape(-1, SUBLANES, values.shape[-1]), axis=0)
            sums[i] = sums[i] + part
        return back * inverse
