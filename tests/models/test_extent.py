"""Pictures of several sizes in one program, against the network on each picture alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import SparseTransformerBlock, init_params, restore
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.image import Image, inside_of
from drsformer_jax.ops.rows import RowShards

TINY = PRESETS["tiny"]
# Biases and LayerNorm's make something of the nothing beyond a picture. In a loop, MEFC's steps
# are compiled sooner.
EVERYTHING = dataclasses.replace(TINY, use_mefc=True, bias=True, unroll=False)
# The first picture ends in the array along both axes, the other one fills it.
EXTENTS = np.array([(8, 16), (16, 24)], np.int32)


def params_of(config: DRSformerConfig, generator: np.random.Generator) -> Any:
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    return jax.tree.map(lambda leaf: generator.normal(0, 0.1, leaf.shape), shapes)


def test_one_program_restores_pictures_as_alone() -> None:
    """In any place of the batch, beside another size, whatever lies beyond it."""
    height, width = EXTENTS[0]
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = params_of(EVERYTHING, generator)
        picture = generator.random((1, height, width, 3))
        forward = jax.jit(functools.partial(restore, EVERYTHING))
        expected = np.asarray(forward(params, picture))[0]
        together = jax.jit(functools.partial(restore, EVERYTHING))
        for extents, garbage in ((EXTENTS, 1e3), (EXTENTS[::-1], np.nan)):
            place = extents.tolist().index([height, width])
            images = np.full((2, 16, 24, 3), garbage)
            images[1 - place] = 0.5
            images[place, :height, :width] = picture
            restored = np.asarray(together(params, images, extents))[place, :height, :width]
            np.testing.assert_allclose(restored, expected, rtol=0, atol=1e-12)
        assert together._cache_size() == 1
        assert np.abs(expected - picture).max() > 0.1


@pytest.mark.parametrize(
    "module", [SparseTransformerBlock(TINY, 2), FeatureCompensator()], ids=["block", "MEFC"]
)
def test_without_biases_a_module_sees_nothing_beyond_a_picture(module: nn.Module) -> None:
    """What LayerNorm makes there goes through a 1x1 convolution before it is taken away.

    MEFC's steps are written out here.
    """
    height, width = EXTENTS[0]
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        picture = generator.normal(size=(1, 8, height, width))
        shapes = jax.eval_shape(module.init, jax.random.key(0), Image(picture))
        params = jax.tree.map(lambda leaf: generator.normal(0, 0.5, leaf.shape), shapes)
        forward = jax.jit(lambda params, image: jax.tree.leaves(module.apply(params, image))[0])
        images = np.full((1, 8, 16, 24), 1e3)
        images[..., :height, :width] = picture
        inside = inside_of(jnp.asarray(EXTENTS[:1]), 16, 24).astype(jnp.float64)
        together = forward(params, Image(jnp.asarray(images), inside=inside))
        alone = forward(params, Image(jnp.asarray(picture)))
        np.testing.assert_allclose(together[..., :height, :width], alone, rtol=0, atol=1e-12)
        assert np.abs(alone - picture).max() > 0.1


def test_rows_over_devices_have_no_extent() -> None:
    split = dataclasses.replace(TINY, rows=RowShards("rows", 1, 16))
    with pytest.raises(ValueError, match="no extent"):
        restore(split, {}, jnp.zeros((1, 16, 8, 3)), jnp.asarray(EXTENTS[:1]))
