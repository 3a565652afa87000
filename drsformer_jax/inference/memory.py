"""Does a whole image fit in memory? An estimate of what the forward needs, and what there is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.inference.tiles import TilePlan, padded_size

if TYPE_CHECKING:
    from drsformer_jax.models.config import DRSformerConfig

# Share of the memory that a forward may fill: the rest is for the system and for the images.
MEMORY_SHARE = 0.6
# What is assumed where the system does not say how much memory it has.
UNKNOWN_MEMORY_BYTES = 4 * 2**30
# Sides of the tiles to fall back to, in pixels. Few sizes, so that a folder compiles few times.
FALLBACK_TILES = (2048, 1536, 1024, 768, 512, 384, 256, 128)
# Rows of neighbouring devices that MSFN works on, on both sides together.
NEIGHBOUR_ROWS = 8
# Scratch of the compiled forward for each hidden value of the widest MSFN, rounded up: measured on
# CPU as 14.2 to 15.7 bytes in float32 and 11.6 to 12.5 in bfloat16, at several sizes and depths,
# with and without MEFC. (The full network lays out up to 90 MB of parameters for their products.)
# The image itself at its peak: 16-bit samples with alpha (8 bytes a pixel), and as float32 RGB (12
# each) what goes in, padded, what comes out, and that clamped.
BYTES_PER_PIXEL = 60
BYTES_PER_HIDDEN_VALUE = {"float32": 17, "bfloat16": 14}


def forward_bytes(config: DRSformerConfig, height: int, width: int, devices: int = 1) -> int:
    """Estimated peak of the forward of one image on each device, in bytes, beside the parameters.

    The peak lies in MSFN of the last decoder level, at full resolution with twice the channels of
    level 1; its branches work on twice the hidden channels. Where several devices share the rows,
    it works on some of the neighbours' rows, too.
    """
    hidden = 2 * config.hidden_channels(2 * config.dim)
    rows = padded_size(-(-height // devices)) + (NEIGHBOUR_ROWS if devices > 1 else 0)
    return BYTES_PER_HIDDEN_VALUE[config.dtype] * hidden * rows * padded_size(width)


def image_bytes(height: int, width: int) -> int:
    """Estimated peak of what the host holds of an image while it is restored, in bytes.

    This is beside the forward of a tile, and cannot be less, however small the tiles are.
    """
    return BYTES_PER_PIXEL * padded_size(height) * padded_size(width)


def largest_tile(config: DRSformerConfig, budget: int, *, above: int = 0, devices: int = 1) -> int:
    """The largest fallback tile whose forward fits in `budget` bytes a device, else the smallest.

    Tiles not larger than `above` (the overlap) are left out.
    """
    tiles = [tile for tile in FALLBACK_TILES if tile > above] or [padded_size(2 * above)]
    for tile in tiles:
        if forward_bytes(config, tile, tile, devices) <= budget:
            return tile
    return tiles[-1]


def check_image(height: int, width: int) -> None:
    """MemoryError, which says what helps, if an image takes more than all the memory there is."""
    held, there = image_bytes(height, width), _host_memory()
    if held > there:
        raise MemoryError(
            f"{width} x {height} pixels take about {_gib(held)} of memory in tiles of any size, "
            f"and there is {_gib(there)}: cut the image into parts or scale it down"
        )


def check_fits(
    config: DRSformerConfig, height: int, width: int, plan: TilePlan, overlap: int, devices: int = 1
) -> None:
    """Refuses at once what would end with the system's killing the process.

    Args:
      config: of the network.
      height, width: of the image, in pixels.
      plan: the tiles it is to be restored in, with `overlap`, on so many `devices`.

    Raises:
      MemoryError: the image, or one tile's forward, takes more than all the memory there is; the
        message says what helps.
    """
    check_image(height, width)
    needed = forward_bytes(config, plan.tile_height, plan.tile_width, devices)
    budget = budget_bytes(devices)
    if needed * MEMORY_SHARE > budget:
        tile = largest_tile(config, budget, above=overlap, devices=devices)
        if tile < max(plan.tile_height, plan.tile_width):
            raise MemoryError(
                f"{plan.tile_width} x {plan.tile_height} pixels at once take about "
                f"{_gib(needed)} of memory, and there is {_gib(budget / MEMORY_SHARE)}: restore "
                f"in smaller tiles (--tile {tile})"
            )


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def smaller_tile(height: int, width: int) -> int:
    """The largest fallback tile of at most half the longer side, else the smallest."""
    return next(
        (tile for tile in FALLBACK_TILES if 2 * tile <= max(height, width)), FALLBACK_TILES[-1]
    )


def budget_bytes(devices: int = 1) -> int:
    """Memory that one forward may use on each of the devices that JAX computes on, in bytes."""
    import jax

    used = [device.memory_stats() for device in jax.local_devices()[:devices]]
    free = [
        stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        for stats in used
        if stats and "bytes_limit" in stats
    ]
    if free:
        return int(MEMORY_SHARE * min(free))
    # Devices that do not tell are made of the CPU, and share its memory.
    return int(MEMORY_SHARE * _host_memory()) // devices


def _host_memory() -> int:
    """Physical memory of this machine or its container, in bytes."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not POSIX
        return UNKNOWN_MEMORY_BYTES
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, versions 2 and 1
        try:
            memory = min(memory, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
    return memory
