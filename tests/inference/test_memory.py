"""The memory estimate against what the compiler allocates, and the choice of a tile."""

from __future__ import annotations

import functools
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax import Derainer
from drsformer_jax.data.decoding import Decoded
from drsformer_jax.inference import memory
from drsformer_jax.inference.photo import restore_photo
from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import init_params, restore

TINY = PRESETS["tiny"]


def test_estimate_is_above_what_the_compiler_allocates_and_near_it() -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("the estimate was measured on CPU")
    params = jax.eval_shape(functools.partial(init_params, TINY), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    compiled = jax.jit(functools.partial(restore, TINY)).lower(params, image).compile()
    scratch = compiled.memory_analysis().temp_size_in_bytes
    assert 0.7 < scratch / memory.forward_bytes(TINY, 64, 96) < 1


def test_estimate_follows_size_and_dtype() -> None:
    whole = memory.forward_bytes(TINY, 64, 64)
    assert memory.forward_bytes(TINY, 57, 128) == 2 * whole
    half = DRSformerConfig(**{**vars(TINY), "dtype": "bfloat16"})
    assert memory.forward_bytes(half, 64, 64) < whole


def test_largest_tile_fits_the_budget() -> None:
    budget = memory.forward_bytes(TINY, 512, 512)
    assert memory.largest_tile(TINY, budget) == 512
    assert memory.largest_tile(TINY, budget - 1) == 384
    # When nothing fits, the smallest is tried; it must stay larger than the overlap.
    assert memory.largest_tile(TINY, 0) == 128
    assert memory.largest_tile(TINY, 0, above=200) == 256
    assert memory.largest_tile(TINY, 0, above=3000) > 3000


def test_what_the_host_holds_of_an_image_is_at_most_estimated_and_near_it() -> None:
    height, width = 403, 501
    derainer = Derainer(TINY, {}, restore=lambda _, image: image)
    samples = np.zeros((height, width, 4), np.uint16)
    for tile in (0, 128):
        restore_photo(derainer, Decoded(samples), tile=tile)
        tracemalloc.start()
        restore_photo(derainer, Decoded(samples), tile=tile)
        peak = tracemalloc.get_traced_memory()[1] + samples.nbytes
        tracemalloc.stop()
        assert 0.7 < peak / memory.image_bytes(height, width) < 1


def test_what_cannot_fit_is_refused_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    derainer = Derainer(TINY, {}, restore=lambda _, image: image)
    image = np.zeros((160, 200, 3), np.uint8)
    there = memory.forward_bytes(TINY, 128, 128) / memory.MEMORY_SHARE
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(None)])
    monkeypatch.setattr(memory, "_host_memory", lambda: there)
    assert derainer(image).shape == image.shape
    assert derainer(image, tile=128).shape == image.shape
    assert derainer(image, tile=152).shape == image.shape  # asked for, and may fit
    with pytest.raises(MemoryError, match=r"200 x 160 pixels at once .* \(--tile 128\)"):
        derainer(image, tile=0)
    monkeypatch.setattr(memory, "_host_memory", lambda: 60 * 160 * 200 - 1)
    with pytest.raises(MemoryError, match=r"200 x 160 pixels .* cut the image into parts"):
        derainer(image, tile=8, overlap=0)


def test_exhausted_memory_asks_for_smaller_tiles() -> None:
    assert memory.smaller_tile(600, 512) == 256
    assert memory.smaller_tile(512, 64) == 256
    assert memory.smaller_tile(64, 64) == 128


def test_budget_is_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_host_memory", lambda: 1000)
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(None)])
    assert memory.budget_bytes() == int(1000 * memory.MEMORY_SHARE)
    device = _Device({"bytes_limit": 5000, "bytes_in_use": 1000})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.budget_bytes() == int(4000 * memory.MEMORY_SHARE)


def test_host_memory_obeys_a_container_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path, *_: object) -> str:
        if path.name == "memory.max":
            return "12345\n"
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert memory._host_memory() == 12345
    monkeypatch.setattr(Path, "read_text", lambda path, *_: "max\n")
    assert memory._host_memory() > 2**28


class _Device:
    def __init__(self, stats: dict[str, int] | None) -> None:
        self._stats = stats

    def memory_stats(self) -> dict[str, int] | None:
        return self._stats
