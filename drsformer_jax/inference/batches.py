"""Several images at a time, one on each device of this process."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from drsformer_jax.inference.derainer import compiled_for_inference, quantise
from drsformer_jax.inference.tiles import pad_to_multiple
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params, restore

_AXIS = "image"


class BatchDerainer:
    """Restores images of one size, as many at a time as this process has devices.

    Each device computes its image as if it were alone: the result is that of `Derainer`.
    """

    def __init__(self, config: DRSformerConfig, params: Params) -> None:
        self._mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
        whole, split = PartitionSpec(), PartitionSpec(_AXIS)
        self._forward = compiled_for_inference(
            jax.shard_map(
                functools.partial(restore, config),
                mesh=self._mesh,
                in_specs=(whole, split),
                out_specs=split,
                check_vma=False,
            )
        )
        self._params: Any = jax.device_put(params, NamedSharding(self._mesh, whole))

    def with_params(self, params: Params) -> BatchDerainer:
        """The same network with other parameters, sharing what is compiled."""
        other = copy.copy(self)
        other._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        return other

    @property
    def images_at_a_time(self) -> int:
        """How many images a call takes at most."""
        return self._mesh.size

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 H W C, all of one size when padded to multiples of 8 -> the same, restored.

        Raises:
          FloatingPointError: the network's output is not finite.
        """
        padded = [pad_to_multiple(image.astype(np.float32) / np.float32(255)) for image in images]
        # The devices that are left compute the first image once more; it is not looked at.
        padded += [padded[0]] * (self.images_at_a_time - len(images))
        batch = jax.device_put(np.stack(padded), NamedSharding(self._mesh, PartitionSpec(_AXIS)))
        restored = np.asarray(self._forward(self._params, batch))[: len(images)]
        if not np.isfinite(restored).all():
            raise FloatingPointError("the network's output is not finite: damaged weights?")
        return [
            quantise(whole[: image.shape[0], : image.shape[1]])
            for whole, image in zip(restored, images, strict=True)
        ]
