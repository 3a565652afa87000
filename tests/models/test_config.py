"""What a configuration accepts, and the sizes of the networks it names."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import pytest

from drsformer_jax.checkpoints.names import check_tree
from drsformer_jax.models.config import ARCHITECTURE_FIELDS, PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import init_params
from drsformer_jax.ops.execution import Execution


def shapes_of(config: DRSformerConfig) -> Any:
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


@pytest.mark.parametrize(
    ("preset", "expected"), [("drsformer", 33_655_424), ("drsformer_no_mefc", 32_610_304)]
)
def test_paper_variants_have_the_published_size(preset: str, expected: int) -> None:
    shapes = shapes_of(PRESETS[preset])
    check_tree(shapes, PRESETS[preset])
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == expected
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


def test_paper_variants_differ_in_the_compensators_alone() -> None:
    paper = PRESETS["drsformer"]
    assert dataclasses.replace(paper, use_mefc=False) == PRESETS["drsformer_no_mefc"]
    assert (paper.dim, paper.num_blocks, paper.heads) == (48, (4, 6, 6, 8), (1, 2, 4, 8))
    assert (paper.bias, paper.layer_norm_type, paper.use_mefc) == (False, "WithBias", True)


def test_channels_and_hidden_channels() -> None:
    config = DRSformerConfig()
    assert config.channels == (48, 96, 192, 384)
    assert [config.hidden_channels(c) for c in config.channels] == [127, 255, 510, 1021]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": (1, 1, 1)}, r"num_blocks must be four positive integers, not \(1, 1, 1\)"),
        ({"num_blocks": (1, 1, 0, 1)}, "num_blocks must be four positive integers"),
        ({"heads": (1, 2, 4, 8, 16)}, "heads must be four positive integers"),
        ({"heads": (1, 2, -4, 8)}, "heads must be four positive integers"),
        ({"dim": 0}, "dim must be positive, not 0"),
        ({"dim": "48"}, "dim must be a whole number, not '48'"),
        ({"use_mefc": "no"}, "use_mefc must be one of .* not 'no'"),
        ({"remat": "no"}, "remat must be one of .* not 'no'"),
        ({"dim": 9, "heads": (1, 1, 1, 1)}, "dim must be even .* not 9"),
        ({"in_channels": 0, "out_channels": 0}, "in_channels must be positive, not 0"),
        ({"out_channels": 1}, r"in_channels \(3\) and out_channels \(1\) must be equal"),
        ({"heads": (5, 2, 4, 8)}, "5 heads do not split 48 channels"),
        ({"dim": 2, "heads": (2, 2, 2, 2)}, "2 heads do not split 2 channels .* at least 2"),
        ({"ffn_expansion_factor": 0.01}, "ffn_expansion_factor 0.01 is too small"),
        ({"layer_norm_type": "biasfree"}, "layer_norm_type must be one of .* not 'biasfree'"),
        ({"dtype": "float16"}, "dtype must be one of .* not 'float16'"),
        ({"precision": "tf32"}, "precision must be one of .* not 'tf32'"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRSformerConfig(**options)


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        DRSformerConfig(
            in_channels=1,
            out_channels=1,
            dim=12,
            num_blocks=(1, 2, 3, 4),
            heads=(1, 1, 2, 4),
            ffn_expansion_factor=2.0,
            bias=True,
            layer_norm_type="BiasFree",
            use_mefc=False,
        ),
    ],
)
def test_architecture_survives_json(config: DRSformerConfig) -> None:
    written = json.loads(json.dumps(config.architecture()))
    assert tuple(written) == ARCHITECTURE_FIELDS
    assert DRSformerConfig.from_architecture(written) == config
    execution = {
        "dtype": "bfloat16",
        "precision": "highest",
        "unroll": False,
        "remat": True,
        "platform": "tpu",
    }
    rebuilt = DRSformerConfig.from_architecture(written, **execution)
    assert rebuilt == dataclasses.replace(config, **execution)
    assert rebuilt.architecture() == config.architecture()
    assert rebuilt.execution == Execution(**execution)


def test_every_field_is_architecture_or_execution() -> None:
    execution = {field.name for field in dataclasses.fields(Execution)}
    fields = {field.name for field in dataclasses.fields(DRSformerConfig)}
    assert fields == set(ARCHITECTURE_FIELDS) | execution


def test_unknown_architecture_fields_are_named() -> None:
    written = PRESETS["tiny"].architecture() | {"depth": 3, "dtype": "float32"}
    with pytest.raises(ValueError, match="unknown architecture fields: depth, dtype"):
        DRSformerConfig.from_architecture(written)


def test_configurations_can_be_static_arguments() -> None:
    from_lists = DRSformerConfig(num_blocks=[4, 6, 6, 8], heads=[1, 2, 4, 8])  # type: ignore[arg-type]
    assert from_lists == DRSformerConfig()
    assert hash(from_lists) == hash(DRSformerConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_lists.dim = 8  # type: ignore[misc]
