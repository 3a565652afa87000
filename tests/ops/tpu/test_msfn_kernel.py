"""MSFN's kernel, interpreted, against the block's layers in float64; and how it lies in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models import layers as network_layers
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import NormalisedFeedForward
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import RowShards
from drsformer_jax.ops.tpu import forms, lanes, msfn_kernel, msfn_layout, msfn_weights, packing
from drsformer_jax.ops.tpu.msfn_layout import Layout

# Of LayerNorm: so large that it shows, and that no pixel of two channels is divided by nothing.
EPSILON = 0.1


def module_of(channels: int, hidden: int, **config: Any) -> NormalisedFeedForward:
    """Of so many hidden channels."""
    return NormalisedFeedForward(
        DRSformerConfig(ffn_expansion_factor=(hidden + 0.5) / channels, **config)
    )


@pytest.fixture(autouse=True)
def epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_layers, "LAYER_NORM_EPSILON", EPSILON)


def shapes_of(module: NormalisedFeedForward, channels: int) -> Any:
    x = jax.ShapeDtypeStruct((1, channels, 8, 8), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"]


def layout_of(shape: tuple[int, ...], dtype: Any = jnp.bfloat16, **options: Any) -> Any:
    """Of the paper's network; a text where the kernel cannot compute it."""
    image = Image(jax.ShapeDtypeStruct(shape, dtype), Execution(platform="tpu", **options))
    params = shapes_of(NormalisedFeedForward(DRSformerConfig()), shape[1])
    return msfn_kernel.layout_for(image, params, EPSILON)


def value_and_gradients(function: Any, params: Any, x: Any, cotangent: Any) -> Any:
    y, pull_back = jax.vjp(function, params, x)
    return y, pull_back(cotangent)


def check(
    shape: tuple[int, ...], module: NormalisedFeedForward, dtype: Any, tolerance: float
) -> None:
    """Value and all gradients, by their distance from float64."""
    rng = np.random.default_rng(shape[1])
    shapes = shapes_of(module, shape[1])
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))),
        shapes,
    )
    x, cotangent = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    # With a mean: LayerNorm's bias gradient is a sum over all pixels, which cancels without, until
    # float32 in any form is 1e-6 off by its rounding alone.
    cotangent += 1

    def layers(params: Any, x: Any) -> jax.Array:
        return module.apply({"params": params}, Image(x)).array

    def kernel(params: Any, x: Any) -> jax.Array:
        image = Image(x, Execution(platform="tpu"))
        return msfn_kernel.feed_forward_by_kernel(image, params, EPSILON).array

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda value: np.asarray(value, np.float64), (params, x, cotangent))
        expected = jax.jit(value_and_gradients, static_argnums=0)(layers, *wide)
    with lanes.interpreting():
        found = jax.jit(value_and_gradients, static_argnums=0)(kernel, params, x, cotangent)
    assert [leaf.dtype for leaf in (found[0], found[1][1])] == [dtype, dtype]
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, wanted), actual in zip(paths, jax.tree.leaves(found), strict=True):
        wanted = np.asarray(wanted)
        difference = np.linalg.norm(np.asarray(actual, np.float64) - wanted)
        assert difference <= tolerance * np.linalg.norm(wanted), path


def test_blocks_of_two_kinds_with_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    """133 outputs are two blocks of two kinds each, and one pair straddles the seam."""
    monkeypatch.setattr(msfn_layout, "GROUPINGS", msfn_layout.GROUPINGS[1:2])
    check((1, 3, 8, 8), module_of(3, 133, bias=True), jnp.float32, 1e-6)


# Biases beside LayerNorm without one are in test_block_kernel.py.
@pytest.mark.parametrize(("norm", "bias"), [("WithBias", True), ("BiasFree", False)])
def test_strips_with_two_images_in_the_lanes(
    norm: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (2, 2, 16, 8)
    room = layout_of(shape, jnp.float32).needed_bytes - 1
    monkeypatch.setattr(msfn_kernel, "vmem_bytes", lambda how: room)
    monkeypatch.setattr(msfn_layout, "COST_OF_STRIPS", 0)
    layout = layout_of(shape, jnp.float32)
    assert (layout.images, layout.rows, layout.has_halo) == (2, 8, True)
    check(shape, module_of(2, 5, bias=bias, layer_norm_type=norm), jnp.float32, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_all_kinds(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msfn_layout, "GROUPINGS", msfn_layout.GROUPINGS[:1])
    tolerance = 1e-6 if dtype == jnp.float32 else 3e-2
    check((2, 6, 16, 16), module_of(6, 70), dtype, tolerance)


@pytest.mark.parametrize(
    ("shape", "expected"),
    # Kinds, blocks, images in the lanes and rows, of the levels of a 128x128 patch.
    [
        ((4, 48, 128, 128), (4, 1, 2, 128)),
        ((3, 48, 128, 128), (2, 1, 1, 128)),
        ((4, 96, 128, 128), (4, 1, 1, 128)),
        ((4, 96, 64, 64), (4, 1, 1, 64)),
        ((4, 192, 32, 32), (4, 2, 1, 32)),
        ((4, 384, 16, 16), (4, 4, 1, 16)),
    ],
)
def test_layouts_of_the_paper(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    found: Layout = layout_of(shape)
    assert not found.has_halo
    assert (len(found.kinds), found.blocks, found.images, found.rows) == expected
    for mib in (64, 16):
        smaller = layout_of(shape, vmem=mib)
        assert smaller.needed_bytes <= smaller.vmem_bytes
        assert smaller.rows <= found.rows
        assert smaller.cores == 2


def test_what_the_kernel_cannot_compute() -> None:
    """The reason in words, for which the other form is taken."""
    assert layout_of((1, 48, 8, 8), jnp.float64) == "float64 activations"
    assert "20 columns, which are no multiple of 8" in layout_of((1, 48, 8, 20))
    assert "4096 columns of 384 channels: too much for 15 MiB" in layout_of(
        (1, 384, 8, 4096), vmem=16
    )


def test_weights_lie_in_the_lanes_and_come_back() -> None:
    """Every parameter is there as often as images share the lanes, and nothing else is."""
    layout = layout_of((2, 8, 8, 8))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes_of(module_of(8, 21), 8))

    @jax.jit
    def packed_and_back(params: Any) -> Any:
        weights, pull_back = jax.vjp(lambda p: msfn_weights.packed(p, layout), params)
        return weights, pull_back(jax.tree.map(jnp.ones_like, weights))[0]

    weights, counts = packed_and_back(params)
    assert layout.images == 2
    for name, count in counts["ffn"].items():
        # The expansion is read by both scales.
        np.testing.assert_array_equal(count["kernel"], 4 if name == "project_in" else 2)
    np.testing.assert_array_equal(weights.norm, np.ones((2, 8)))
    size = sum(float(jnp.sum(count["kernel"])) for count in counts["ffn"].values())
    assert sum(float(jnp.sum(weight)) for weight in weights[1:]) == size


def test_option_chooses_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsettled on a TPU it is not taken; for a TPU that is not there it is."""
    module, x = module_of(2, 5), jnp.ones((1, 2, 8, 8))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes_of(module, 2))

    def takes_kernel(x: jax.Array = x, **options: Any) -> bool:
        image = Image(x, Execution(**options))
        program = jax.make_jaxpr(lambda: module.apply({"params": params}, image).array)()
        return "pallas_call" in str(program)

    name = "NormalisedFeedForward"
    assert takes_kernel(platform="tpu")
    assert takes_kernel(platform="tpu", kernels="on")
    assert takes_kernel(platform="tpu", kernels=(name,))
    assert not takes_kernel(platform="tpu", kernels=("FeatureCompensator",))
    assert not takes_kernel(platform="tpu", kernels="off")
    assert not takes_kernel(jnp.ones((1, 2, 8, 12)), platform="tpu", kernels="on")
    for platform in ("cpu", "gpu", None):
        assert not takes_kernel(platform=platform, kernels="on")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert forms.find(name, Execution()) is None
    assert not Execution().takes_kernel(name)
    assert Execution(kernels="on").takes_kernel(name)


def test_rows_over_devices_are_strips() -> None:
    rows = RowShards("rows", 4, 64)
    layout = layout_of((2, 48, 16, 64), rows=rows)
    assert layout.has_halo
    assert layout.rows == 16


def test_where_the_image_lies_in_strips_of_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 16 to 32 of 40, in two strips; the rows between the convolutions begin two earlier."""
    whole = jnp.arange(40.0)
    monkeypatch.setattr(
        packing,
        "with_neighbours",
        lambda x, reach, rows, axis: jnp.broadcast_to(
            whole[16 - reach : 32 + reach, None, None], (2, 16 + 2 * reach, *x.shape[2:])
        ),
    )
    monkeypatch.setattr(packing, "positions", lambda rows, band: 16 + jnp.arange(band))
    rows = RowShards("rows", 3, 40)  # bands of 16 rows
    layout = dataclasses.replace(layout_of((2, 48, 16, 64), rows=rows), rows=8, images=1)
    strips, bounds = msfn_kernel.cut(layout, jnp.zeros((2, 16, 64, 48)), rows)
    assert strips.shape == (4, 16, 64, 48)
    np.testing.assert_array_equal(strips[:, 0, 0, 0], [12, 12, 20, 20])
    np.testing.assert_array_equal(bounds, [[-14, 26], [-14, 26], [-22, 18], [-22, 18]])


def test_strips_that_do_not_divide_the_image() -> None:
    """Rows that are missing at the end are outside."""
    layout = dataclasses.replace(layout_of((1, 48, 16, 64)), rows=6, has_halo=True)
    strips, bounds = msfn_kernel.cut(layout, jnp.ones((1, 16, 64, 48)), None)
    assert strips.shape == (3, 14, 64, 48)
    np.testing.assert_array_equal(strips[2, :, 0, 0], [1] * 8 + [0] * 6)
    np.testing.assert_array_equal(bounds, [[2, 18], [-4, 12], [-10, 6]])
