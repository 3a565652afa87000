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


@pytest.mark.parametrize(
    ("config", "looked_at"), [(TINY, 1), (EVERYTHING, 0)], ids=["tiny", "everything"]
)
def test_one_program_restores_pictures_as_alone(config: DRSformerConfig, looked_at: int) -> None:
    """In any place of the batch, beside another size, whatever lies beyond it."""
    height, width = EXTENTS[looked_at]
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = params_of(config, generator)
        picture = generator.random((1, height, width, 3))
        expected = np.asarray(jax.jit(functools.partial(restore, config))(params, picture))[0]
        together = jax.jit(functools.partial(restore, config))
        for extents, garbage in ((EXTENTS, 1e3), (EXTENTS[::-1], np.nan)):
            place = extents.tolist().index([height, width])
            images = np.full((2, 16, 24, 3), garbage)
            images[1 - place, :8, :8] = 0.5
            images[place, :height, :width] = picture
            restored = np.asarray(together(params, images, extents))[place, :height, :width]
            np.testing.assert_allclose(restored, expected, rtol=0, atol=1e-12)
        assert together._cache_size() == 1
        assert np.abs(expected - picture).max() > 0.1


def test_rows_over_devices_have_no_extent() -> None:
    split = dataclasses.replace(TINY, rows=RowShards("rows", 1, 16))
    with pytest.raises(ValueError, match="no extent"):
        restore(split, {}, jnp.zeros((1, 16, 8, 3)), jnp.asarray(EXTENTS[:1]))
