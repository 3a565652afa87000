"""The block's two kernels, interpreted, against its layers in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models import drsformer
from drsformer_jax.models import layers as network_layers
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import SparseTransformerBlock
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import RowShards
from drsformer_jax.ops.tpu import block_kernel, forms, lanes, msfn_inputs, msfn_layout
from drsformer_jax.training.kernel_trials import Case, tried

# Of LayerNorm: so large that it shows, and that no pixel of few channels is divided by nothing.
EPSILON = 0.1


def block_of(channels: int, hidden: int, heads: int, **config: Any) -> SparseTransformerBlock:
    """Of so many hidden channels; its attention is a smooth function."""
    factor = (hidden + 0.5) / channels
    options = DRSformerConfig(ffn_expansion_factor=factor, **config)
    return SparseTransformerBlock(options, heads, keeps_all=True)


@pytest.fixture(autouse=True)
def epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_layers, "LAYER_NORM_EPSILON", EPSILON)
    monkeypatch.setattr(drsformer, "LAYER_NORM_EPSILON", EPSILON)


def shapes_of(block: SparseTransformerBlock, channels: int) -> Any:
    x = jax.ShapeDtypeStruct((1, channels, 8, 8), jnp.float32)
    return jax.eval_shape(block.init, jax.random.key(0), Image(x))["params"]


def why_not(shape: tuple[int, ...], dtype: Any = jnp.bfloat16, **options: Any) -> str | None:
    """Of a block of the paper's network."""
    block = SparseTransformerBlock(DRSformerConfig(), shape[1] // 48)
    image = Image(jax.ShapeDtypeStruct(shape, dtype), Execution(platform="tpu", **options))
    ks = (24, 32, 36, 38)
    return block_kernel.why_not(image, shapes_of(block, shape[1]), block.heads, ks, EPSILON)


def value_and_gradients(function: Any, params: Any, x: Any, cotangent: Any) -> Any:
    y, pull_back = jax.vjp(function, params, x)
    return y, pull_back(cotangent)


def check(layers: Any, kernels: Any, params: Any, shape: tuple[int, ...]) -> None:
    """Value and all gradients, by their distance from float64; functions of (params, x)."""
    rng = np.random.default_rng(shape[1])
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))),
        params,
    )
    x, cotangent = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda value: np.asarray(value, np.float64), (params, x, cotangent))
        expected = jax.jit(value_and_gradients, static_argnums=0)(layers, *wide)
    with lanes.interpreting(), forms.refusals() as reasons:
        found = jax.jit(value_and_gradients, static_argnums=0)(kernels, params, x, cotangent)
    assert not reasons
    assert [leaf.dtype for leaf in (found[0], found[1][1])] == [jnp.float32] * 2
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, wanted), actual in zip(paths, jax.tree.leaves(found), strict=True):
        wanted = np.asarray(wanted)
        difference = np.linalg.norm(np.asarray(actual, np.float64) - wanted)
        assert difference <= 1e-5 * np.linalg.norm(wanted), path


def test_blocks_one_after_the_other_with_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image each: two blocks of MSFN, and two groups of heads."""
    monkeypatch.setattr(msfn_layout, "GROUPINGS", msfn_layout.GROUPINGS[2:])
    block = block_of(130, 133, 2, bias=True, layer_norm_type="BiasFree")

    def layers(params: Any, x: Any) -> jax.Array:
        return block.apply({"params": params}, Image(x))[0].array

    def kernels(params: Any, x: Any) -> jax.Array:
        how = Execution(platform="tpu", kernels=("SparseTransformerBlock",))
        return block.apply({"params": params}, Image(x, how))[0].array

    check(layers, kernels, shapes_of(block, 130), (2, 130, 8, 8))


def test_blocks_in_a_loop_with_two_images_in_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block has weights of its own; they come in twice, and their gradients go out."""
    monkeypatch.setattr(msfn_layout, "GROUPINGS", msfn_layout.GROUPINGS[2:])
    monkeypatch.setattr(msfn_inputs, "PIXELS_OF_A_PRODUCT", 16)
    block, count = block_of(4, 5, 2, bias=True), 2
    stacked = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), shapes_of(block, 4)
    )

    def layers(stacked: Any, x: Any) -> jax.Array:
        def turn(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
            return block.apply({"params": params}, Image(x))[0].array, None

        return jax.lax.scan(turn, x, stacked)[0]

    def loop(stacked: Any, x: Any) -> jax.Array:
        # Interpreted kernels cannot be recomputed.
        how = Execution(platform="tpu", kernels=("SparseTransformerBlock",), remat=False)
        form: Any = forms.find("SparseTransformerBlock", how, many=True)
        return form(Image(x, how), stacked, 2, (2, 2, 2, 2), EPSILON).array

    check(layers, loop, stacked, (2, 4, 10, 8))


def test_the_network_packs_weights_before_its_loops() -> None:
    """A loop over blocks takes them packed, and recomputes its turns; told not to, it is above."""
    config = DRSformerConfig(
        dim=8, num_blocks=(2, 2, 2, 2), heads=(1, 2, 2, 4), use_mefc=False, platform="tpu",
        kernels="on", unroll=False,
    )  # fmt: skip
    params = jax.eval_shape(lambda: drsformer.init_params(config, jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda *given: drsformer.restore(config, *given))(params, image)
    loops = [equation for equation in traced.eqns if equation.primitive.name == "scan"]
    assert len(loops) == 7
    for loop in loops:
        shapes = [value.aval.shape for value in loop.invars]
        channels = loop.outvars[0].aval.shape[1]
        assert (2, 1, 1, channels, channels) in shapes  # what the attention map is projected with
        assert (2, 1, 1, channels, 3 * channels) not in shapes
        assert (2, 1, 1, channels, 2 * config.hidden_channels(channels)) not in shapes
        inside = {equation.primitive.name for equation in loop.params["jaxpr"].jaxpr.eqns}
        assert "remat2" in inside


@pytest.mark.slow
def test_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """No further from float32 than the form without kernels, as trials on a TPU have it."""
    monkeypatch.setattr(msfn_layout, "GROUPINGS", msfn_layout.GROUPINGS[2:])
    case = Case("SparseTransformerBlock", block_of(6, 20, 1), (2, 6, 16, 16))
    with lanes.interpreting():
        trial = tried(case, Execution(dtype="bfloat16", platform="tpu"))
    assert trial.of_form
    assert trial.agrees, (trial.differences, trial.of_form)


def test_blocks_of_the_paper() -> None:
    """Where a kernel would see strips, the halves of the block are computed by themselves."""
    shapes = [(48, 128), (96, 128), (96, 64), (192, 32), (384, 16)]
    for dtype in (jnp.bfloat16, jnp.float32):
        assert not any(why_not((4, n, size, size), dtype) for n, size in shapes)
    assert "a whole image of 48 channels" in str(why_not((4, 48, 128, 128), vmem=64))
    rows = RowShards("rows", 2, 32)
    assert "rows over devices" in str(why_not((4, 96, 16, 64), rows=rows))
    assert "multiple of 8" in str(why_not((4, 48, 8, 12)))
