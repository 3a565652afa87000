"""Which sizes the network is compiled for, where the pictures of one command have many.

A program takes seconds to compile. It serves every picture that fits in its array
(`models.drsformer.restore`), and what it computes beyond a picture is wasted. So pictures share a
program where that costs less than one more compilation, both counted in pixels.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Mapping

import drsformer_jax.inference.memory as memory
from drsformer_jax.inference.tiles import TilePlan
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.ops.execution import CPU, TPU

# Height and width, multiples of 8.
Size = tuple[int, int]

# The pixels that a network restores in the time that its program takes to compile, times its
# channels and its blocks. Measured on two cores of a CPU as 1.5 million pixels with 8 channels and
# 4 blocks, 1.0 with 16 and 4, 0.1 with 48 and 24. Others are taken to be a hundred times as fast.
_PIXELS_A_PROGRAM = 64e6
_TIMES_FASTER_THAN_CPU = 100


def programs_for(
    config: DRSformerConfig, plans: Iterable[TilePlan], *, are_shared: bool
) -> dict[Size, Size]:
    """The size of the program that each size of tile is to be restored by.

    Args:
      config: of the network.
      plans: one for each picture.
      are_shared: False: each size has a program of its own. It is so on TPU, too, whose forms of
        the network's modules take a picture to fill its array.
    """
    tiles: collections.Counter[Size] = collections.Counter()
    for plan in plans:
        tiles[plan.tile_height, plan.tile_width] += len(plan)
    if not are_shared or config.target == TPU:
        return {size: size for size in tiles}
    faster = 1 if config.target == CPU else _TIMES_FASTER_THAN_CPU
    budget = memory.budget_bytes()
    return shared_sizes(
        tiles,
        worth=_PIXELS_A_PROGRAM * faster / (config.dim * sum(config.num_blocks)),
        fits=lambda height, width: memory.forward_bytes(config, height, width) <= budget,
    )


def shared_sizes(
    counts: Mapping[Size, int], worth: float, fits: Callable[[int, int], bool]
) -> dict[Size, Size]:
    """The size of the program that each size is to be restored by: its own, or a larger one.

    Sides of shared programs are rounded up to eight steps an octave, so that pictures of another
    day find them compiled, and at first only sizes that are rounded to the same one share it: then
    less than a quarter is wasted. Programs are merged further as long as it saves time.

    Args:
      counts: how many pictures or tiles there are of each size.
      worth: pixels that are restored in the time of one compilation.
      fits: whether a program of this height and width has the memory it needs.
    """

    def program(group: list[Size]) -> Size:
        if len(group) == 1:
            return group[0]
        height, width = map(max, zip(*group, strict=True))
        return _rounded_up(height), _rounded_up(width)

    def pixels(group: list[Size]) -> int:
        return math.prod(program(group)) * sum(counts[size] for size in group)

    def saved(one: list[Size], other: list[Size]) -> float:
        both = one + other
        return worth + pixels(one) + pixels(other) - pixels(both) if fits(*program(both)) else 0

    numbers = itertools.count()
    groups = {next(numbers): group for group in _first_groups(counts, worth, fits)}
    savings = {
        pair: gain
        for pair in itertools.combinations(groups, 2)
        if (gain := saved(*(groups[number] for number in pair))) > 0
    }
    while savings:
        merged = max(savings, key=savings.__getitem__)
        group = [size for number in merged for size in groups.pop(number)]
        savings = {pair: gain for pair, gain in savings.items() if not {*pair} & {*merged}}
        new = next(numbers)
        for number, other in groups.items():
            if (gain := saved(other, group)) > 0:
                savings[number, new] = gain
        groups[new] = group
    return {size: program(group) for group in groups.values() for size in group}


def _first_groups(
    counts: Mapping[Size, int], worth: float, fits: Callable[[int, int], bool]
) -> list[list[Size]]:
    """Sizes that are rounded up to the same one; alone those that are worth a program."""
    alone: list[list[Size]] = []
    rounded: dict[Size, list[Size]] = collections.defaultdict(list)
    for size in sorted(counts):
        larger = (_rounded_up(size[0]), _rounded_up(size[1]))
        wasted = counts[size] * (math.prod(larger) - math.prod(size))
        if wasted > worth or not fits(*larger):
            alone.append([size])
        else:
            rounded[larger].append(size)
    return alone + list(rounded.values())


def _rounded_up(side: int) -> int:
    """The next of eight steps an octave, multiples of 8: at most an eighth longer."""
    step = 1 << max(3, (side - 1).bit_length() - 4)
    return -(-side // step) * step
