"""Which sizes are compiled, and that a picture in a larger array is restored as alone."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest

from drsformer_jax import Derainer
from drsformer_jax.inference import memory
from drsformer_jax.inference.forward import compiled_network
from drsformer_jax.inference.sizes import Size, shared_sizes
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params

TINY = PRESETS["tiny"]
MANY = {(8 * rows, 8 * columns): 1 for rows in range(40, 60) for columns in range(50, 80, 3)}
WORTH = 1e6


def everything_fits(height: int, width: int) -> bool:
    return True


def pixels(programs: dict[Size, Size], counts: dict[Size, int]) -> int:
    return sum(math.prod(programs[size]) * count for size, count in counts.items())


def test_two_sizes_of_many_pictures_have_a_program_each() -> None:
    counts = {(400, 600): 50, (600, 400): 50}
    assert shared_sizes(counts, WORTH, everything_fits) == {size: size for size in counts}


def test_many_sizes_share_few_programs_that_cost_least() -> None:
    programs = shared_sizes(MANY, WORTH, everything_fits)
    assert all(programs[size] >= size and programs[size][1] >= size[1] for size in MANY)
    count = len(set(programs.values()))
    assert 2 < count < 30
    largest = {size: max(programs.values()) for size in MANY}
    alone = {size: size for size in MANY}
    cost = count * WORTH + pixels(programs, MANY)
    assert cost < WORTH + pixels(largest, MANY)
    assert cost < len(MANY) * WORTH + pixels(alone, MANY)
    assert pixels(programs, MANY) < 1.25 * pixels(alone, MANY)


def test_other_pictures_find_the_same_programs() -> None:
    """Sides of shared programs lie on a grid: eight steps an octave."""
    shared = shared_sizes({(264, 520): 1, (280, 504): 1}, WORTH, everything_fits)
    assert set(shared.values()) == {(288, 576)}
    small = shared_sizes({(136, 144): 1, (144, 136): 1}, WORTH, everything_fits)
    assert set(small.values()) == {(144, 144)}


def test_what_fits_in_memory_only_alone_stays_alone() -> None:
    counts = {(400, 600): 1, (600, 400): 1, (408, 600): 1}
    programs = shared_sizes(counts, 1e9, lambda height, width: height * width < 270_000)
    assert programs == {(400, 600): (416, 640), (408, 600): (416, 640), (600, 400): (600, 400)}


class TestDerainer:
    def test_pictures_share_a_program_and_are_restored_as_alone(self) -> None:
        shapes = jax.eval_shape(functools.partial(init_params, TINY), jax.random.key(0))
        generator = np.random.default_rng(0)
        params: Any = jax.tree.map(
            lambda leaf: generator.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes
        )
        compiled_network.cache_clear()  # what other tests have compiled would be counted
        derainer = Derainer(TINY, params)
        sizes = [(13, 21), (6, 30)]
        pictures = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        together = derainer.for_sizes(sizes)
        assert together.programs == {(16, 24): (16, 32), (8, 32): (16, 32)}
        found = [together(picture) for picture in pictures]
        assert together._forward._cache_size() == 1
        # The other one would be a third program to compile.
        alone = derainer(pictures[0])
        assert derainer._forward._cache_size() == 2
        assert np.abs(found[0].astype(int) - alone).max() <= 1
        assert found[1].shape == pictures[1].shape
        assert (found[0] != pictures[0]).any()

    def test_tiles_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = Derainer(TINY, {}).for_sizes([(100, 40), (50, 200)], tile=64, overlap=8)
        assert plan.programs == {(64, 40): (64, 64), (56, 64): (64, 64)}
        monkeypatch.setattr(memory, "budget_bytes", lambda *_: memory.forward_bytes(TINY, 64, 56))
        small = Derainer(TINY, {}).for_sizes([(100, 40), (50, 200)], tile=64, overlap=8)
        assert small.programs == {size: size for size in plan.programs}

    def test_another_function_than_the_networks_takes_exact_sizes(self) -> None:
        derainer = Derainer(TINY, {}, restore=lambda _, image: image).for_sizes([(8, 9), (9, 8)])
        assert derainer.programs == {(8, 16): (8, 16), (16, 8): (16, 8)}
