from __future__ import annotations

import dataclasses

import pytest

from drsformer_jax.checkpoints.infer import infer_config
from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS, DRSformerConfig


def shapes_of(config):
    return {name: spec.shape for name, spec in torch_names(config).items()}


def test_architecture_is_found(config):
    inferred = infer_config(shapes_of(config))
    # 2.0 and 2.66 are found as they are; nothing else is left open.
    assert inferred == config


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_found(preset):
    assert infer_config(shapes_of(PRESETS[preset])).architecture() == PRESETS[preset].architecture()


# 2.66 is that of the paper's preset.
@pytest.mark.parametrize("factor", [1.0, 1.5, 2.667, 4.1234])
def test_a_factor_with_the_same_hidden_sizes_is_found(factor):
    config = DRSformerConfig(
        dim=48, num_blocks=(1, 1, 1, 1), ffn_expansion_factor=factor, use_mefc=False
    )
    inferred = infer_config(shapes_of(config))
    assert shapes_of(inferred) == shapes_of(config)
    if len(str(factor)) <= 4:
        assert inferred.ffn_expansion_factor == factor


def test_unequal_depths_and_heads_are_found():
    config = DRSformerConfig(dim=24, num_blocks=(1, 2, 3, 4), heads=(3, 2, 4, 6), use_mefc=False)
    assert infer_config(shapes_of(config)) == config


def test_a_few_bad_tensors_do_not_mislead(config):
    shapes = shapes_of(config)
    del shapes["patch_embed.proj.weight"]
    shapes["encoder_level1.0.norm1.body.weight"] = (5,)
    shapes["latent.0.ffn.project_in.weight"] = (40, 64, 1, 1)
    expected = config if config.in_channels == 3 else dataclasses.replace(config, in_channels=1)
    if config.in_channels == 1:  # only patch_embed tells the input channels
        shapes["patch_embed.proj.weight"] = (8, 1, 3, 3)
    assert infer_config(shapes) == expected


def test_restormer_is_told_apart():
    shapes = {
        name.replace("refinement.", "x."): shape
        for name, shape in shapes_of(PRESETS["tiny"]).items()
        if ".attn.attn" not in name
    }
    with pytest.raises(UserError, match=r"r\.pth is not a DRSformer.*attn1 to attn4.*Restormer"):
        infer_config(shapes, "r.pth")


@pytest.mark.parametrize("shapes", [{}, {"conv1.weight": (64, 3, 7, 7), "fc.bias": (10,)}])
def test_something_else_is_refused(shapes):
    with pytest.raises(UserError, match=f"none of its {len(shapes)} tensors"):
        infer_config(shapes)


def test_an_absurd_block_number_is_refused_quickly(small):
    shapes = shapes_of(small)
    shapes["latent.999999999.norm1.body.weight"] = (64,)
    with pytest.raises(UserError, match="1000000000 blocks"):
        infer_config(shapes)


def test_a_network_that_cannot_be_built_is_a_users_error(small):
    shapes = shapes_of(small)
    shapes["output.weight"] = (4, 16, 3, 3)
    with pytest.raises(UserError, match=r"cannot be built: in_channels \(3\) and out_channels"):
        infer_config(shapes)
