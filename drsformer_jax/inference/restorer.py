"""One image in, the derained image out: any size, any memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

import drsformer_jax.inference.memory as memory
from drsformer_jax.inference.process import check_process
from drsformer_jax.inference.samples import as_unit, check_image, quantise
from drsformer_jax.inference.tiles import (
    DEFAULT_BLEND,
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


class Restorer:
    """A network that restores one image at a time, uint8 `H W C` of any size, whole or in tiles.

    It is compiled once for each padded size; all tiles of an image share one, and so do Restorers
    of one network, whatever their parameters. A forked process can use neither the Restorers of the
    one that it was forked from nor, if there are any, make its own: that raises a RuntimeError.
    Threads may share one.
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
        """Takes the parameters as they are in memory.

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
        from drsformer_jax.inference.forward import (
            SplitForward,
            compiled_for_inference,
            compiled_network,
        )

        check_process()
        self.config = config
        self.devices = devices
        self._is_network, self._is_compiled = restore is None, compiled
        self._params_sharding = None
        if devices != 1:
            if restore is not None:
                raise ValueError("another function than the network's cannot be split over devices")
            split = SplitForward(config, devices)
            self._forward: Callable[..., Any] = split
            self._params_sharding = split.params_sharding
        elif restore is None:
            from drsformer_jax.models.drsformer import restore as network

            self._forward = compiled_network(network, config)
        else:
            self._forward = compiled_for_inference(restore) if compiled else restore
        self._params = self._on_device(params)
        # The size of the program that restores tiles of a size, where it is not that size itself
        # (`Derainer.for_sizes`).
        self.programs: dict[tuple[int, int], tuple[int, int]] = {}
        self._told: set[tuple[int, int]] = set()  # sizes that memory is too short for

    def _on_device(self, params: Any) -> Any:
        import jax

        check_process()
        if self._is_network:
            from drsformer_jax.models.repeated import blocks_apart

            params = blocks_apart(self.config, params)
        return jax.device_put(params, self._params_sharding)

    @property
    def params(self) -> Any:
        """The parameters, as they are on the device (see `models.repeated.blocks_apart`)."""
        return self._params

    def with_params(self, params: Any) -> Self:
        """The same network with other parameters, sharing what is compiled."""
        other = copy.copy(self)
        other._params = self._on_device(params)
        return other

    def __call__(
        self,
        image: np.ndarray,
        *,
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
        blend: str = DEFAULT_BLEND,
    ) -> np.ndarray:
        """Restores an 8-bit image.

        Args:
          image: uint8 `H W 3`, RGB (as many channels as the network has), of any size.
          tile: side of the tiles in pixels, a multiple of 8. 0: the whole image at once. None:
            the whole image, or tiles when it would not fit in memory (a warning is logged).
            The network's attention spans its whole view, so that tiles change the result a
            little.
          overlap: pixels that neighbouring tiles share.
          blend: how they are joined there: "smooth", by a window that falls towards the border of
            a tile, or "uniform", the plain mean, as in the authors' program.

        Returns:
          uint8, the shape of `image`.

        Raises:
          ValueError: `image` has another type or shape.
          UserError: `tile`, `overlap` or `blend` is out of its range.
          MemoryError: the image or the forward does not fit in memory; the message says what helps.
          FloatingPointError: the network's output is not finite.
        """
        check_image(image, np.uint8, self.config.in_channels)
        unit = self.restore_float(as_unit(image), tile=tile, overlap=overlap, blend=blend)
        return quantise(unit)

    def restore_float(
        self,
        image: np.ndarray,
        *,
        tile: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
        blend: str = DEFAULT_BLEND,
        on_tile: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """The same for a float32 image in [0, 1]; the result is clamped to [0, 1], not rounded.

        `on_tile`, if given, is called before each tile with the number of all tiles; what it
        raises ends the work.
        """
        check_image(image, np.float32, self.config.in_channels)
        height, width = image.shape[:2]
        plan = self.plan(height, width, tile=tile, overlap=overlap)
        memory.check_fits(self.config, height, width, plan, overlap, self.devices)

        def restore(part: np.ndarray) -> np.ndarray:
            if on_tile is not None:
                on_tile(len(plan))
            return self._restore_tile(part)

        restored = restore_in_tiles(plan, pad_to_multiple(image), restore, blend)
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
        plan = self._plan(height, width, tile, overlap)
        if tile is None and len(plan) > 1 and (height, width) not in self._told:
            self._told.add((height, width))
            logger.warning(
                "%d x %d pixels at once would take about %.1f GiB of memory%s and %.1f may be "
                "used: restoring in tiles of %d (--tile 0 forces the whole image)",
                padded_size(width),
                padded_size(height),
                memory.forward_bytes(self.config, height, width, self.devices) / 2**30,
                "" if self.devices == 1 else " on each device",
                memory.budget_bytes(self.devices) / 2**30,
                max(plan.tile_height, plan.tile_width),
            )
        return plan

    def _plan(self, height: int, width: int, tile: int | None, overlap: int) -> TilePlan:
        check_tiling(tile, overlap)
        if tile is None:
            budget, devices = memory.budget_bytes(self.devices), self.devices
            fits = memory.forward_bytes(self.config, height, width, devices) <= budget
            tile = 0
            if not fits:
                tile = memory.largest_tile(self.config, budget, above=overlap, devices=devices)
        return plan_tiles(padded_size(height), padded_size(width), tile, overlap)

    def _restore_tile(self, tile: np.ndarray) -> np.ndarray:
        import jax

        check_process()
        height, width = tile.shape[:2]
        program = self.programs.get((height, width), (height, width))
        images = [tile[None]]
        if program != (height, width):
            larger = np.zeros((1, *program, tile.shape[2]), np.float32)
            larger[0, :height, :width] = tile
            images = [larger, np.array([[height, width]], np.int32)]
        try:
            return np.asarray(self._forward(self._params, *images))[0, :height, :width]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise MemoryError(
                f"no memory for {width} x {height} pixels at once: restore in smaller tiles "
                f"(--tile {memory.smaller_tile(height, width)})"
            ) from error
