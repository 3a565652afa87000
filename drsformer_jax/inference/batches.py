"""Several images at a time on the devices of this process, each at its own size.

Padding other than to a multiple of 8 changes what attention sees, so images of different size never
share a batch.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import drsformer_jax.inference.memory as memory
from drsformer_jax.data.sources import Pair
from drsformer_jax.errors import UserError
from drsformer_jax.inference.forward import compiled_for_inference
from drsformer_jax.inference.restorer import Restorer
from drsformer_jax.inference.samples import quantise
from drsformer_jax.inference.tiles import pad_to_multiple, padded_size
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import restore
from drsformer_jax.models.repeated import Params, blocks_apart

_AXIS = "image"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored pair.

    Attributes:
      index: its number in the source.
      image: uint8 `H W 3`.
      seconds: wall-clock time; of images that were restored together, its share.
    """

    index: int
    pair: Pair
    image: np.ndarray
    seconds: float


class BatchDerainer:
    """Restores images of one size, some at a time on each device of this process.

    With one on each, every device computes its image as if it were alone, and the result is that of
    `Restorer`. With several, sums may be rounded in another order.

    Args:
      per_device: images at a time on one device.
    """

    def __init__(self, config: DRSformerConfig, params: Params, per_device: int = 1) -> None:
        self.config = config
        self.per_device = per_device
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
        self._params: Any = self._on_devices(params)

    def _on_devices(self, params: Params) -> Any:
        params = blocks_apart(self.config, params)
        return jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))

    def with_params(self, params: Params) -> BatchDerainer:
        """The same network with other parameters, sharing what is compiled."""
        other = copy.copy(self)
        other._params = self._on_devices(params)
        return other

    @property
    def images_at_a_time(self) -> int:
        """How many images a call takes at most."""
        return self._mesh.size * self.per_device

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


def restore_grouped(
    derain: Restorer, batches: BatchDerainer | None, pairs: Iterable[tuple[int, Pair]]
) -> Iterator[Restored]:
    """Restores numbered pairs, those whose padded sizes agree together.

    Args:
      derain: for images that do not fit on one device whole, or where there are no `batches`.
      batches: the same network on all devices; None: one image at a time.
    """
    if batches is None:
        yield from restore_one_by_one(derain, pairs)
        return
    budget = memory.budget_bytes(jax.local_device_count())
    waiting: dict[tuple[int, int], list[tuple[int, Pair]]] = collections.defaultdict(list)
    for index, pair in pairs:
        height, width = (padded_size(size) for size in pair["input"].shape[:2])
        if batches.per_device * memory.forward_bytes(batches.config, height, width) > budget:
            yield from restore_one_by_one(derain, [(index, pair)])
            continue
        group = waiting[height, width]
        group.append((index, pair))
        if len(group) == batches.images_at_a_time:
            yield from _restore_group(batches, waiting.pop((height, width)))
    for group in waiting.values():
        yield from _restore_group(batches, group)


def restore_one_by_one(
    restore: Callable[[np.ndarray], np.ndarray], pairs: Iterable[tuple[int, Pair]]
) -> Iterator[Restored]:
    """Restores numbered pairs with any function, uint8 `H W 3` to the same shape.

    Raises:
      UserError: an image does not fit in memory, or its result is not finite.
    """
    for index, pair in pairs:
        start = time.perf_counter()
        # A JAX array arrives when it is asked for: converting it belongs to the time measured.
        try:
            restored = np.asarray(restore(pair["input"]))
        except (MemoryError, FloatingPointError) as error:
            raise UserError(f"{pair['name']}: {error}") from error
        yield Restored(index, pair, restored, time.perf_counter() - start)


def _restore_group(batches: BatchDerainer, group: list[tuple[int, Pair]]) -> Iterator[Restored]:
    start = time.perf_counter()
    try:
        restored = batches([pair["input"] for _, pair in group])
    except FloatingPointError as error:
        raise UserError(f"{group[0][1]['name']}: {error}") from error
    seconds = (time.perf_counter() - start) / len(group)
    for (index, pair), image in zip(group, restored, strict=True):
        yield Restored(index, pair, image, seconds)
