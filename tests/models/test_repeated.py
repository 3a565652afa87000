"""Modules in a row: their parameters apart, and what written-out ones are kept by."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from reference.parity import network_tree, torch_network, weights_of
from reference.small import TINY, on_image

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import SparseTransformerBlock
from drsformer_jax.models.mefc import STEPS, FeatureCompensator
from drsformer_jax.models.repeated import _outlined, blocks_apart, repeated
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.rows import RowShards


class Level(nn.Module):
    """The blocks of the second level."""

    config: DRSformerConfig

    @nn.compact
    def __call__(self, x: Image) -> Image:
        blocks, heads = self.config.num_blocks[1], self.config.heads[1]
        return repeated(self, "blocks", blocks, SparseTransformerBlock, self.config, heads)(x)


class TestBlocksApart:
    CONFIG = DRSformerConfig(**TINY, bias=True)

    def params(self) -> Any:
        return network_tree(weights_of(torch_network(self.CONFIG)), self.CONFIG)

    @pytest.mark.parametrize("part", ["encoder_level2", "refinement"])
    def test_the_same_image_to_the_last_bit(self, part: str) -> None:
        """The two kinds of modules in a row, without the network around them."""
        params = self.params()
        apart = blocks_apart(self.CONFIG, params)
        x = np.random.default_rng(4).uniform(size=(1, 16, 8, 8)).astype(np.float32)
        if part == "encoder_level2":
            module: nn.Module = Level(self.CONFIG)
            trees = [{"blocks": tree[part]} for tree in (apart, params)]
        else:
            module = FeatureCompensator()
            trees = [tree[part] for tree in (apart, params)]
        forward = jax.jit(on_image(module))
        values = [np.asarray(forward(jax.tree.map(jnp.asarray, tree), x)) for tree in trees]
        np.testing.assert_array_equal(*values)
        assert forward._cache_size() == 2

    def test_no_array_holds_several_blocks(self) -> None:
        params = self.params()
        apart = blocks_apart(self.CONFIG, params)
        assert [len(apart[name]) for name in ("encoder_level1", "encoder_level2", "latent")] == [
            self.CONFIG.num_blocks[level] for level in (0, 1, 3)
        ]
        assert len(apart["refinement"]["steps"]) == 4
        second = apart["encoder_level2"][1]["attn"]["qkv"]["kernel"]
        assert np.shares_memory(second, params["encoder_level2"]["attn"]["qkv"]["kernel"])
        whole, parts = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, apart))
        assert whole == parts

    def test_those_that_are_apart_stay_as_they_are(self) -> None:
        apart = blocks_apart(self.CONFIG, self.params())
        again = jax.tree.leaves(blocks_apart(self.CONFIG, apart))
        assert all(a is b for a, b in zip(again, jax.tree.leaves(apart), strict=True))

    @pytest.mark.parametrize("execution", [{"unroll": False}, {"platform": "gpu", "unroll": True}])
    def test_elsewhere_they_are_stacked(self, execution: dict[str, Any]) -> None:
        params = self.params()
        assert blocks_apart(dataclasses.replace(self.CONFIG, **execution), params) is params


def test_rows_are_part_of_what_is_traced() -> None:
    """The same blocks for other heights and axes: nothing may be taken from another's cache."""
    block = functools.partial(_outlined, SparseTransformerBlock, (PRESETS["tiny"], 1))
    assert block() is block()  # else it would be compiled for each use
    x = jnp.zeros((1, 8, 16, 8))
    init = SparseTransformerBlock(*block.args[1]).init
    params = jax.eval_shape(init, jax.random.key(0), Image(x))["params"]
    keys = [None, *(RowShards(axis, 4, height) for axis in "ab" for height in (32, 40))]
    axes = [("a", 4), ("b", 4)]
    programs = {
        str(jax.make_jaxpr(block(), axis_env=axes)(params, Image(x, Execution(rows=rows))))
        for rows in keys
    }
    assert len(programs) == len(keys)


def test_watched_modules_are_looped() -> None:
    """Written out, each is a call that nothing can be seen of."""
    x = Image(jnp.ones((1, 4, 8, 8)), Execution(platform="cpu", unroll=True))
    params = jax.eval_shape(FeatureCompensator().init, jax.random.key(0), x)
    apply = functools.partial(
        FeatureCompensator().apply, capture_intermediates=True, mutable=["intermediates"]
    )
    _, captured = jax.eval_shape(apply, params, x)
    (update,) = captured["intermediates"]["steps"]["expert0"]["pointwise0"]["__call__"]
    assert update.array.shape == (STEPS, 1, 4, 8, 8)
