"""The derainer around a tiny random network, and around functions that need none."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from drsformer_jax import Derainer
from drsformer_jax.checkpoints.names import from_tree
from drsformer_jax.errors import UserError
from drsformer_jax.inference import memory
from drsformer_jax.inference.forward import compiled_for_inference, compiled_network
from drsformer_jax.inference.samples import quantise
from drsformer_jax.inference.tiles import pad_to_multiple
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params, restore
from drsformer_jax.models.repeated import blocks_apart

SIZES = [(1, 1), (7, 5), (13, 21), (64, 40)]
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def params() -> Any:
    # Drawn here, because compiling the initialisers takes longer than all of these tests.
    shapes = jax.eval_shape(functools.partial(init_params, TINY), jax.random.key(0))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes
    )


@pytest.fixture(scope="module")
def network(params: Any) -> Derainer:
    compiled_network.cache_clear()  # what other tests have compiled would be counted
    return Derainer(TINY, params)


def identity() -> Derainer:
    return Derainer(TINY, {}, restore=lambda _, image: image)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# One padded size: compiling takes most of the time. Those below need no network.
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (8, 8)])
def test_network_sees_the_padded_image(height: int, width: int, network: Derainer) -> None:
    image = picture(height, width)
    restored = network(image)
    padded = pad_to_multiple(image.astype(np.float32) / 255)[None]
    expected = np.asarray(network._forward(network.params, padded))
    expected = np.rint(expected[0, :height, :width].clip(0, 1) * 255).astype(np.uint8)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, expected)
    assert (restored != image).any()
    assert network._forward._cache_size() == 1


def test_the_program_is_that_of_the_network(network: Derainer, params: Any) -> None:
    """With its parameters as arguments, not constants."""
    image = jnp.zeros((1, 8, 8, 3))
    apart = blocks_apart(TINY, params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(network.params), apart)
    plain = compiled_for_inference(functools.partial(restore, TINY)).lower(apart, image)
    lowered = network._forward.lower(network.params, image)
    assert lowered.as_text() == plain.as_text()
    assert len(jax.tree.leaves(lowered.in_avals)) == len(jax.tree.leaves(params)) + 1


@pytest.mark.parametrize("tile", [None, 0, 8, 16, 24])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_identity_comes_back_untouched(height: int, width: int, tile: int | None) -> None:
    image = picture(height, width)
    np.testing.assert_array_equal(identity()(image, tile=tile, overlap=5), image)


def test_tiles_equal_the_whole_for_a_pointwise_function() -> None:
    derainer = Derainer(TINY, {"gain": np.float32(0.7)}, restore=lambda p, x: p["gain"] * x)
    image = picture(61, 100)
    tiled = derainer(image, tile=32, overlap=8, blend="uniform")
    np.testing.assert_array_equal(tiled, derainer(image, tile=0))


def test_those_of_one_network_share_what_is_compiled(network: Derainer) -> None:
    assert Derainer(TINY, {})._forward is network._forward
    other = dataclasses.replace(TINY, precision="highest")
    assert Derainer(other, {})._forward is not network._forward


def test_one_compilation_for_all_tiles_and_sizes_of_a_tile() -> None:
    traced = []

    def forward(_: Any, image: jax.Array) -> jax.Array:
        traced.append(image.shape)
        return image

    derainer = Derainer(TINY, {}, restore=forward)
    derainer(picture(50, 70), tile=32, overlap=8)
    derainer(picture(61, 33), tile=32, overlap=8)
    assert traced == [(1, 32, 32, 3)]
    derainer(picture(60, 60))
    derainer(picture(64, 57))
    assert traced == [(1, 32, 32, 3), (1, 64, 64, 3)]


def test_short_memory_falls_back_to_tiles_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    derainer = identity()
    monkeypatch.setattr(memory, "budget_bytes", lambda *_: memory.forward_bytes(TINY, 128, 128))
    with caplog.at_level(logging.WARNING):
        assert len(derainer.plan(128, 128)) == 1
        assert not caplog.records
        plan = derainer.plan(128, 200)
    assert (plan.tile_height, plan.tile_width, plan.lefts) == (128, 128, (0, 72))
    assert "tiles of 128" in caplog.text
    caplog.clear()
    assert len(derainer.plan(128, 200, tile=0)) == 1
    assert not caplog.records


def test_output_is_clamped_and_halves_go_to_even() -> None:
    derainer = Derainer(TINY, {}, restore=lambda _, image: image * 4 - 1)
    restored = derainer.restore_float(np.linspace(0, 1, 64 * 3, dtype=np.float32).reshape(8, 8, 3))
    assert restored.min() == 0
    assert restored.max() == 1
    values = np.array([-0.2, 0.5 / 255, 1.5 / 255, 2.5 / 255, 254.5 / 255, 1.3], np.float32)
    assert quantise(values).tolist() == [0, 0, 2, 2, 254, 255]
    deep = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(quantise(deep / np.float32(65535), np.uint16), deep)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
    ids=["float", "no channels", "alpha", "empty", "list"],
)
def test_other_arrays_are_refused_with_what_is_expected(image: Any) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 pixels of shape \(height, width, 3\)"):
        identity()(image)


def test_8_bit_values_are_refused_as_float() -> None:
    with pytest.raises(ValueError, match="expected float32"):
        identity().restore_float(picture(8, 8))


def test_bad_tile_is_a_users_error() -> None:
    with pytest.raises(UserError, match="--tile"):
        identity()(picture(8, 8), tile=12)
    with pytest.raises(UserError, match="--overlap"):
        identity()(picture(8, 8), overlap=-1)


def test_not_finite_output_is_an_error_not_a_black_image() -> None:
    derainer = Derainer(TINY, {}, restore=lambda _, image: image * jnp.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        derainer(picture(8, 8))


def test_exhausted_device_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    derainer = identity()
    monkeypatch.setattr(derainer, "_forward", exhausted)
    with pytest.raises(MemoryError, match="8 x 16 pixels"):
        derainer(picture(16, 8))


def test_load_reads_weights_and_sets_the_execution(tmp_path: Any, params: Any) -> None:
    from drsformer_jax.checkpoints.weights import Weights, save_weights

    path = tmp_path / "tiny.safetensors"
    save_weights(path, Weights(TINY, params, {}))
    loaded = Derainer.load(path)
    assert loaded.config.architecture() == TINY.architecture()
    expected = blocks_apart(loaded.config, params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded.params), expected)
    half = Derainer.load(path, dtype="bfloat16", precision="highest")
    assert (half.config.dtype, half.config.precision) == ("bfloat16", "highest")
    with pytest.raises(ValueError, match="dtype"):
        Derainer.load(path, dtype="float16")


def test_tiles_are_counted_before_they_are_restored() -> None:
    log: list[Any] = []

    def restore(_: Any, image: Any) -> Any:
        jax.debug.callback(lambda: log.append("restored"))
        return image

    derainer = Derainer(TINY, {}, restore=restore)
    unit = np.zeros((8, 24, 3), np.float32)
    derainer.restore_float(unit, tile=8, overlap=0, on_tile=log.append)
    jax.effects_barrier()
    assert log.count(3) == log.count("restored") == 3
    assert log[0] == 3

    def stop(tiles: int) -> None:
        log.append(tiles)
        raise RuntimeError("enough")

    log.clear()
    with pytest.raises(RuntimeError, match="enough"):
        derainer.restore_float(unit, tile=8, overlap=0, on_tile=stop)
    jax.effects_barrier()
    assert log == [3]


def test_what_is_said_of_reading_the_weights_is_logged(
    tmp_path: Any, params: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "net.bin"
    named = {f"net_g.{name}": array for name, array in from_tree(params, TINY).items()}
    save_file(named, path)
    assert Derainer.load(path).config == TINY
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: took 'net_g.' off {len(named)} of ")


def test_missing_weights_are_a_users_error(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        Derainer.load(tmp_path / "nowhere.safetensors")


def test_importing_the_derainer_is_light() -> None:
    code = (
        "import sys; from drsformer_jax import Derainer; "
        "print([m for m in ('jax', 'flax', 'torch', 'tensorflow', 'grain') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fork_is_told_that_jax_would_hang_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PRESETS["tiny"]
    derain = Derainer(config, {}, restore=lambda params, image: image)
    image = np.zeros((8, 8, 3), np.uint8)
    assert derain(image).shape == image.shape
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(RuntimeError, match=f"made in process {parent}, and this is a fork of it"):
        derain(image)
    with pytest.raises(RuntimeError, match="spawn"):
        Derainer(config, {}, restore=lambda params, image: image)
