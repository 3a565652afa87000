"""The network and its parts on one device and with the rows split over several, compared.

Run as a program with eight CPU devices: prints {case: {"value", "gradients"}} as JSON, the largest
differences relative to the largest magnitude of each array; all in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from reference.small import TINY, on_image

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import SparseTransformerBlock, init_params, restore
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import RowShards
from drsformer_jax.ops.tpu import feed_forward, forms

AXIS = "rows"
FULL = DRSformerConfig(**TINY, bias=True)
WITHOUT_MEFC = dataclasses.replace(FULL, use_mefc=False)
PLAIN = dataclasses.replace(WITHOUT_MEFC, bias=False, layer_norm_type="BiasFree")
# CPU takes long for TPU's forms, and twice the blocks of channels are four times the work. MSFN has
# 9 hidden channels at the latent level: an odd number, whose last pair is mixed.
FOR_TPU = dataclasses.replace(
    FULL, platform="tpu", dim=2, heads=(1, 1, 1, 1), ffn_expansion_factor=0.6
)

# Of (params, x, rows), x split along the axis of its rows.
Function = Callable[[Any, jax.Array, RowShards | None], jax.Array]


def random_params(shapes: Any) -> Any:
    """Float64 parameters that leave no ReLU and no bias without effect."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape) + (leaf.ndim == 1), shapes)


def difference(actual: Any, expected: Any) -> float:
    """The largest of all arrays, each relative to its largest magnitude."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(a - e).max() / max(np.abs(e).max(), 1e-30)) for a, e in pairs)


def compare(
    function: Function,
    params: Any,
    x: np.ndarray,
    axis: int,
    rows: RowShards,
    *,
    differentiated: bool = True,
) -> dict[str, float]:
    """One device against `rows.count` of them."""
    mesh = jax.make_mesh(
        (rows.count,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[: rows.count]
    )
    bands = PartitionSpec(*[None] * axis, AXIS)
    weights = np.random.default_rng(1).normal(size=x.shape).astype(x.dtype)

    def value(params: Any, x: jax.Array, weights: jax.Array, rows: Any) -> Any:
        y = function(params, x, rows)
        return jnp.sum(y * weights), y

    def gradients(params: Any, x: jax.Array, weights: jax.Array, rows: Any) -> Any:
        if not differentiated:
            return value(params, x, weights, rows)[1], ()
        gradient = jax.grad(value, argnums=(0, 1), has_aux=True)
        (of_params, of_x), y = gradient(params, x, weights, rows)
        if rows is not None:
            of_params = jax.lax.psum(of_params, AXIS)
        return y, (of_params, of_x)

    split = jax.shard_map(
        functools.partial(gradients, rows=rows),
        mesh=mesh,
        in_specs=(PartitionSpec(), bands, bands),
        out_specs=(bands, (PartitionSpec(), bands) if differentiated else ()),
        check_vma=False,
    )
    height = x.shape[axis]
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, rows.padded_height * height // rows.height - height)

    def cropped(y: jax.Array) -> np.ndarray:
        return np.take(np.asarray(y), np.arange(height), axis)

    one, of_one = jax.jit(functools.partial(gradients, rows=None))(params, x, weights)
    # What stands in padding rows is nobody's business.
    filled = np.pad(x, padding, constant_values=7)
    y, of_split = jax.jit(split)(params, filled, np.pad(weights, padding))
    assert np.abs(one).max() > 0.1
    found = {"value": difference(cropped(y), one), "gradients": 0.0}
    if differentiated:
        found["gradients"] = max(
            difference(of_split[0], of_one[0]), difference(cropped(of_split[1]), of_one[1])
        )
    return found


def block(
    config: DRSformerConfig, level: int, height: int, count: int, *, differentiated: bool = True
) -> dict[str, float]:
    """A sparse Transformer block of a level, the image `height` rows high in full resolution."""
    module = SparseTransformerBlock(config, config.heads[level])
    x = np.random.default_rng(2).normal(size=(2, config.channels[level], height >> level, 6))
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"])

    def function(params: Any, x: jax.Array, rows: RowShards | None) -> jax.Array:
        return on_image(module, platform=config.platform, rows=rows)(params, x)

    rows = RowShards(AXIS, count, height)
    return compare(function, params, x, 2, rows, differentiated=differentiated)


def compensator(height: int, count: int, width: int = 10, **execution: Any) -> dict[str, float]:
    module = FeatureCompensator()
    x = np.random.default_rng(3).normal(size=(2, 4, height, width))
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), Image(x))["params"])

    def function(params: Any, x: jax.Array, rows: RowShards | None) -> jax.Array:
        return on_image(module, rows=rows, **execution)(params, x)

    return compare(function, params, x, 2, RowShards(AXIS, count, height))


def network(config: DRSformerConfig, height: int, count: int) -> dict[str, float]:
    """Values of the whole network; its gradients are those of its parts, and of training."""
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    params = random_params(shapes)
    x = np.random.default_rng(4).uniform(size=(1, height, 16, 3))
    rows = RowShards(AXIS, count, height)

    def function(params: Any, x: jax.Array, rows: RowShards | None) -> jax.Array:
        return restore(dataclasses.replace(config, rows=rows), params, x)

    return compare(function, params, x, 1, rows, differentiated=False)


def make_blocks_small(lanes: int) -> None:
    """Fewer channels in the blocks of TPU's forms: CPU computes all their zeros."""
    for name in ("TopKSparseAttention", "FeatureCompensator"):
        forms.FORMS[name] = functools.partial(forms.FORMS[name], size=lanes)
    feed_forward.in_squares = functools.partial(feed_forward.in_squares, size=lanes)
    # So that there are still several parts of them.
    feed_forward.BLOCKS_AT_A_TIME = 1


def cases() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    yield "block with biases, 40 rows over 4", lambda: block(FULL, 0, 40, 4)
    # At the latent level a band has one row, or two of which the last may be padding.
    yield "latent block with biases, 64 rows over 8", lambda: block(FULL, 3, 64, 8)
    yield "latent block, 56 rows over 4", lambda: block(PLAIN, 3, 56, 4)
    yield "compensator, 40 rows over 4", lambda: compensator(40, 4, unroll=False)
    # The compensator is above: two of them, written out, take longer to compile than all the rest.
    yield "network, 40 rows over 4", lambda: network(WITHOUT_MEFC, 40, 4)
    # Squares of pixels, the last one half outside the image, and no squares. Values alone, for the
    # gradients take a minute to compile; those of the exchange are in the compensator's.
    for height, count in ((56, 4), (16, 2)):
        yield (
            f"latent block for TPU, {height} rows over {count}",
            functools.partial(block, FOR_TPU, 3, height, count, differentiated=False),
        )
    yield "compensator for TPU, 40 rows over 4", lambda: compensator(40, 4, width=4, platform="tpu")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    make_blocks_small(16)
    results = {}
    for name, case in cases():
        start = time.perf_counter()
        results[name] = case()
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps(results))
