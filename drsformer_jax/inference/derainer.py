"""One image in, the derained image out: any size, any memory."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import drsformer_jax.inference.memory as memory
from drsformer_jax.errors import UserError
from drsformer_jax.inference.exported import Exported, is_exported, open_exported
from drsformer_jax.inference.tiles import (
    DEFAULT_OVERLAP,
    TilePlan,
    check_tiling,
    pad_to_multiple,
    padded_size,
    plan_tiles,
    restore_in_tiles,
)

if TYPE_CHECKING:
    from drsformer_jax.models.config import DRSformerConfig

logger = logging.getLogger(__name__)


def quantise(image: np.ndarray, dtype: Any = np.uint8) -> np.ndarray:
    """Clamps a float image to [0, 1] and rounds it to the range of an unsigned integer type.

    Halves go to the even neighbour, as in the authors' test program.
    """
    # In place: of a large image every copy counts.
    scaled = np.clip(image, 0, 1)
    scaled *= np.float32(np.iinfo(dtype).max)
    return np.rint(scaled, out=scaled).astype(dtype)


def as_unit(image: np.ndarray) -> np.ndarray:
    """An image of an unsigned integer type as float32 in [0, 1]."""
    unit = image.astype(np.float32)
    unit /= np.float32(np.iinfo(image.dtype).max)
    return unit


# The process that the first Derainer was made in.
_process: int | None = None


def check_process() -> None:
    """That JAX, which a Derainer has started, is used in the process that it was started in.

    Raises:
      RuntimeError: this is a fork of that process. JAX's threads are not in it, and it would wait
        for them for ever.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise RuntimeError(
            f"a Derainer was made in process {_process}, and this is a fork of it, in which JAX "
            "would hang: start processes with multiprocessing.get_context('spawn') and make a "
            "Derainer in each, or use threads"
        )


class Derainer:
    """A trained network that restores one image at a time::

        derain = Derainer.load("drsformer.safetensors")
        clean = derain(rainy)  # uint8 H W 3, RGB, of any size

    The network is compiled once for each padded size; all tiles of an image share one. A forked
    process can use neither the Derainers of the one that it was forked from nor, if there are any,
    make its own: that raises a RuntimeError. Threads may share one.
    """

    def __init__(
        self,
        config: DRSformerConfig,
        params: Any,
        *,
        restore: Callable[[Any, Any], Any] | None = None,
        devices: int = 1,
        compiled: bool = True,
    ) -> None:
        """Takes the parameters as they are in memory; `Derainer.load` reads them from a file.

        Args:
          config: of the network.
          params: its parameters, a tree of arrays.
          restore: another function of (params, image), float32 `1 H W C` to the same shape, in
            the place of the network's forward; on one device.
          devices: how many of this process's devices share each image (or tile), a band of its
            rows on each. The result is that of one device, rounded otherwise in places.
          compiled: whether `restore` is compiled by JAX; else it is called as it is.

        Raises:
          UserError: there are not so many devices.
          ValueError: another function than the network's on several devices.
        """
        from drsformer_jax.inference.forward import SplitForward, compiled_for_inference

        check_process()
        self.config = config
        self.devices = devices
        self._is_network = restore is None
        self._params_sharding = None
        if devices != 1:
            if restore is not None:
                raise ValueError("another function than the network's cannot be split over devices")
            split = SplitForward(config, devices)
            self._forward: Callable[[Any, Any], Any] = split
            self._params_sharding = split.params_sharding
        else:
            if restore is None:
                from drsformer_jax.models.drsformer import restore as network

                restore = functools.partial(network, config)
            self._forward = compiled_for_inference(restore) if compiled else restore
        self._params = self._on_device(params)

    def _on_device(self, params: Any) -> Any:
        import jax

        check_process()
        if self._is_network:
            from drsformer_jax.models.repeated import blocks_apart

            params = blocks_apart(self.config, params)
        return jax.device_put(params, self._params_sharding)

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

    @property
    def params(self) -> Any:
        """The parameters, as they are on the device (see `models.repeated.blocks_apart`)."""
        return self._params

    def with_params(self, params: Any) -> Derainer:
        """The same network with other parameters, sharing what is compiled."""
        other = copy.copy(self)
        other._params = self._on_device(params)
        return other

    def __call__(
        self, image: np.ndarray, *, tile: int | None = None, overlap: int = DEFAULT_OVERLAP
    ) -> np.ndarray:
        """Restores an 8-bit image.

        Args:
          image: uint8 `H W 3`, RGB (as many channels as the network has), of any size.
          tile: side of the tiles in pixels, a multiple of 8. 0: the whole image at once. None:
            the whole image, or tiles when it would not fit in memory (a warning is logged).
            The network's attention spans its whole view, so that tiles change the result a
            little.
          overlap: pixels that neighbouring tiles share; the mean is taken there.

        Returns:
          uint8, the shape of `image`.

        Raises:
          ValueError: `image` has another type or shape.
          UserError: `tile` or `overlap` is out of its range.
          MemoryError: the image or the forward does not fit in memory; the message says what helps.
          FloatingPointError: the network's output is not finite.
        """
        self._check(image, np.uint8)
        return quantise(self.restore_float(as_unit(image), tile=tile, overlap=overlap))

    def restore_float(
        self,
        image: np.ndarray,
        *,
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
        on_tile: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """The same for a float32 image in [0, 1]; the result is clamped to [0, 1], not rounded.

        `on_tile`, if given, is called before each tile with the number of all tiles; what it
        raises ends the work.
        """
        self._check(image, np.float32)
        height, width = image.shape[:2]
        plan = self.plan(height, width, tile=tile, overlap=overlap)
        memory.check_fits(self.config, height, width, plan, overlap, self.devices)

        def restore(part: np.ndarray) -> np.ndarray:
            if on_tile is not None:
                on_tile(len(plan))
            return self._restore_tile(part)

        restored = restore_in_tiles(plan, pad_to_multiple(image), restore)
        if not np.isfinite(restored).all():
            raise FloatingPointError("the network's output is not finite: damaged weights?")
        return np.clip(restored[:height, :width], 0, 1)

    def plan(
        self,
        height: int,
        width: int,
        *,
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
    ) -> TilePlan:
        """The tiles that an image of this size is restored in; arguments as for the call."""
        check_tiling(tile, overlap)
        height, width = padded_size(height), padded_size(width)
        if tile is None:
            tile = self._automatic_tile(height, width, overlap)
        return plan_tiles(height, width, tile, overlap)

    def _automatic_tile(self, height: int, width: int, overlap: int) -> int:
        budget = memory.budget_bytes(self.devices)
        needed = memory.forward_bytes(self.config, height, width, self.devices)
        if needed <= budget:
            return 0
        tile = memory.largest_tile(self.config, budget, above=overlap, devices=self.devices)
        logger.warning(
            "%d x %d pixels at once would take about %.1f GiB of memory%s and %.1f may be used: "
            "restoring in tiles of %d (--tile 0 forces the whole image)",
            width,
            height,
            needed / 2**30,
            "" if self.devices == 1 else " on each device",
            budget / 2**30,
            tile,
        )
        return tile

    def _restore_tile(self, tile: np.ndarray) -> np.ndarray:
        import jax

        check_process()
        try:
            return np.asarray(self._forward(self._params, tile[None]))[0]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            height, width = tile.shape[:2]
            raise MemoryError(
                f"no memory for {width} x {height} pixels at once: restore in smaller tiles "
                f"(--tile {memory.smaller_tile(height, width)})"
            ) from error

    def _check(self, image: np.ndarray, dtype: Any) -> None:
        channels = self.config.in_channels
        expected = f"expected {np.dtype(dtype)} pixels of shape (height, width, {channels})"
        if not isinstance(image, np.ndarray):
            raise ValueError(f"{expected}, got {type(image).__name__}")
        if (
            image.dtype != dtype
            or image.ndim != 3
            or image.shape[2] != channels
            or 0 in image.shape
        ):
            raise ValueError(f"{expected}, got {image.dtype} of shape {image.shape}")
