"""Trained weights of any kind, ready to take the rain out of images."""

from __future__ import annotations

import collections
import copy
import dataclasses
import itertools
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.errors import UserError
from drsformer_jax.inference.exported import Exported, is_exported, open_exported
from drsformer_jax.inference.restorer import Restorer
from drsformer_jax.inference.tiles import DEFAULT_OVERLAP

logger = logging.getLogger(__name__)


class Derainer(Restorer):
    """A trained network that restores one image at a time::

        derain = Derainer.load("drsformer.safetensors")
        clean = derain(rainy)  # uint8 H W 3, RGB, of any size

    The network is compiled once for each padded size; all tiles of an image share one, and images
    of many sizes do if they are told of before (`for_sizes`). A forked
    process can use neither the Derainers of the one that it was forked from nor, if there are any,
    make its own: that raises a RuntimeError. Threads may share one.
    """

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str] | None = None,
        *,
        dtype: str = "float32",
        precision: str = "default",
        devices: int = 1,
    ) -> Derainer:
        """Reads trained weights.

        Args:
          weights: a `.safetensors` or `.pth` file, a converted checkpoint or a training workdir;
            or a network that `drsformer export` wrote, `.onnx` or `.stablehlo`. None: the weights
            that come with the package. What is to be said of how they were read is logged.
          dtype: of the activations, "float32" or "bfloat16" (half the memory).
          precision: of matrix products on accelerators: "default", "high" or "highest".
          devices: that share each image, see the constructor.

        Raises:
          UserError: the weights are missing, broken or of another network, or there are not so
            many devices.
          ValueError: `dtype` or `precision` is unknown.
        """
        if is_exported(weights):
            if is_in_bucket(str(weights)):
                raise UserError(f"{weights}: exported networks are read from disks alone: copy it")
            return cls._load_exported(Path(str(weights)), dtype, precision, devices)
        from drsformer_jax import load_weights

        loaded = load_weights(weights)
        for note in loaded.notes:
            logger.warning("%s: %s", weights, note)
        config = dataclasses.replace(loaded.config, dtype=dtype, precision=precision)
        return cls(config, loaded.params, devices=devices)

    @classmethod
    def from_pretrained(
        cls, repository: str, *, revision: str | None = None, **options: Any
    ) -> Derainer:
        """Reads weights from the Hugging Face hub.

        Args:
          repository: ORG/NAME.
          revision: a branch, a tag or a commit, which alone is always the same; None: the newest.
          **options: as for `load`.

        Raises:
          UserError: they cannot be had (`checkpoints.hub`), or as `load`.
        """
        return cls.load(f"hf://{repository}" + (f"@{revision}" if revision else ""), **options)

    @classmethod
    def _load_exported(cls, path: Path, dtype: str, precision: str, devices: int) -> Derainer:
        if (dtype, precision, devices) != ("float32", "default", 1):
            raise UserError(
                f"{path}: is a program already: it computes in float32 on one device, and neither "
                "dtype nor precision nor --devices can change that"
            )
        return cls.of_exported(open_exported(path))

    @classmethod
    def of_exported(cls, exported: Exported) -> Derainer:
        """With an exported network in the place of ours."""
        return cls(exported.config, {}, restore=exported.restore, compiled=exported.is_traceable)

    def for_sizes(
        self,
        sizes: Iterable[tuple[int, int]],
        *,
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
    ) -> Derainer:
        """The same network for images of these sizes, in as few programs as take the least time.

        An image that shares a program is restored inside of a larger array. The result differs
        from that without `for_sizes` by the rounding of sums. On several devices, on TPU and with
        another function than the network's, each size has a program of its own.

        Args:
          sizes: height and width of each image; one that several have, as often.
          tile, overlap: as for the call.
        """
        if not self._is_compiled:
            return self
        from drsformer_jax.inference.sizes import programs_for

        # Of a million pictures few are of a size of their own.
        plans = itertools.chain.from_iterable(
            itertools.repeat(self._plan(*size, tile, overlap), count)
            for size, count in collections.Counter(sizes).items()
        )
        takes_extents = self._is_network and self.devices == 1
        other = copy.copy(self)
        other.programs = programs_for(self.config, plans, are_shared=takes_extents)
        return other
