"""Pictures of several sizes in one program, against the network on each picture alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import init_params, restore
from drsformer_jax.ops.rows import RowShards

TINY = PRESETS["tiny"]
EVERYTHING = dataclasses.replace(TINY, use_mefc=True, bias=True, layer_norm_type="BiasFree")
EXTENTS = np.array([(16, 8), (8, 24)], np.int32)


def params_of(config: DRSformerConfig, generator: np.random.Generator) -> Any:
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    return jax.tree.map(lambda leaf: generator.normal(0, 0.1, leaf.shape), shapes)


@pytest.mark.parametrize("config", [TINY, EVERYTHING], ids=["tiny", "everything"])
def test_one_program_restores_each_picture_as_if_alone(config: DRSformerConfig) -> None:
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = params_of(config, generator)
        pictures = [generator.random((*size, 3)) for size in EXTENTS]
        alone = jax.jit(functools.partial(restore, config))
        # Each of them is compiled, which takes the time here.
        looked_at = pictures if config is TINY else pictures[:1]
        expected = [np.asarray(alone(params, picture[None]))[0] for picture in looked_at]
        together = jax.jit(functools.partial(restore, config))
        for order, garbage in (([0, 1], 1e3), ([1, 0], np.nan)):
            images = np.full((2, 16, 24, 3), garbage)
            for image, i in zip(images, order, strict=True):
                image[: EXTENTS[i, 0], : EXTENTS[i, 1]] = pictures[i]
            restored = np.asarray(together(params, images, EXTENTS[order]))
            for i, picture in enumerate(expected):
                found = restored[order.index(i), : EXTENTS[i, 0], : EXTENTS[i, 1]]
                np.testing.assert_allclose(found, picture, rtol=0, atol=1e-12)
        assert together._cache_size() == 1
        assert np.abs(expected[0] - pictures[0]).max() > 0.1


def test_rows_over_devices_have_no_extent() -> None:
    split = dataclasses.replace(TINY, rows=RowShards("rows", 1, 16))
    with pytest.raises(ValueError, match="no extent"):
        restore(split, {}, jnp.zeros((1, 16, 8, 3)), jnp.asarray(EXTENTS[:1]))
