from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drsformer_jax.checkpoints.catalogue import packaged
from drsformer_jax.checkpoints.names import from_tree, to_tree
from drsformer_jax.checkpoints.torch_names import (
    _KNOWN,
    checksum,
    place_of,
    specs_of,
    torch_names,
)
from drsformer_jax.checkpoints.weights import load_weights
from drsformer_jax.models import drsformer
from drsformer_jax.models.config import PRESETS, DRSformerConfig

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "torch_names.json").read_text())


@pytest.mark.parametrize(
    ("preset", "tensors", "parameters"),
    [("drsformer", 924, 33_655_424), ("drsformer_no_mefc", 730, 32_610_304)],
)
def test_published_sizes(preset, tensors, parameters):
    specs = torch_names(PRESETS[preset])
    assert len(specs) == tensors
    assert sum(int(np.prod(spec.shape)) for spec in specs.values()) == parameters


@pytest.mark.parametrize("golden", GOLDEN, ids=[golden["name"] for golden in GOLDEN])
def test_names_order_shapes_and_layouts_stay(golden):
    """Files and optimizers' states of everybody depend on them."""
    config = DRSformerConfig.from_architecture(golden["architecture"])
    rows = [
        f"{name} {list(spec.shape)} {spec.layout} {'/'.join(spec.path)} {spec.index}"
        for name, spec in torch_names(config).items()
    ]
    assert rows == golden.get("rows", rows)
    assert len(rows) == golden["tensors"]
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest() == golden["sha256"]


def test_names_shapes_and_order_are_those_of_the_torch_module(config):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from drsformer_jax.parity.torch_drsformer import DRSformer as Reference

    with torch.device("meta"):
        module = Reference(
            inp_channels=config.in_channels,
            out_channels=config.out_channels,
            dim=config.dim,
            num_blocks=config.num_blocks,
            heads=config.heads,
            ffn_expansion_factor=config.ffn_expansion_factor,
            bias=config.bias,
            LayerNorm_type=config.layer_norm_type,
            use_mefc=config.use_mefc,
        )
    expected = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    assert [(name, spec.shape) for name, spec in torch_names(config).items()] == expected


def test_names_lead_back(config):
    for name, spec in torch_names(config).items():
        assert place_of(name) == (spec.path, spec.index)


@pytest.mark.parametrize(
    "name",
    [
        "latent.00.attn.attn1",
        "latent.0.attn.attn5",
        "latent.0.norm3.body.weight",
        "latent.0.mlp.qkv.weight",
        "latent.attn.attn1",
        "encoder_level0.layers.1._ops.0._ops.7.op.0.weight",
        "output",
        "",
    ],
)
def test_other_names_are_nobodys(name):
    assert place_of(name) is None


def test_a_tree_of_something_else_has_no_names():
    assert specs_of({"latent": {"norm1": {"scale": np.ones((2, 4))}}}) is not None
    assert specs_of({"latent": {"norm1": {"slope": np.ones((2, 4))}}}) is None
    assert specs_of({"latent": {"norm1": {"scale": np.ones(())}}}) is None
    assert specs_of({"latent": {"norm1": {"scale": np.ones((10**9, 0))}}}) is None


def test_networks_of_presets_and_packaged_weights_are_known():
    """Else reading them would trace the network, or a change of it would go unnoticed."""
    networks = PRESETS | {name: load_weights(name).config for name in packaged()}
    shapes = {
        name: {n: spec.shape for n, spec in torch_names(config).items()}
        for name, config in networks.items()
    }
    assert {checksum(shapes[name], networks[name]) for name in networks} == _KNOWN
    assert checksum(shapes["tiny"], PRESETS["small"]) not in _KNOWN
    shapes["tiny"]["output.weight"] = (3, 16, 1, 1)
    assert checksum(shapes["tiny"], PRESETS["tiny"]) not in _KNOWN


def test_a_network_is_traced_once(monkeypatch):
    traced, init_params = [], drsformer.init_params

    def spy(*args):
        traced.append(args)
        return init_params(*args)

    monkeypatch.setattr(drsformer, "init_params", spy)
    # Of no other test: what a process has traced it keeps.
    small = {"dim": 4, "num_blocks": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "use_mefc": False}
    config = DRSformerConfig(**small, ffn_expansion_factor=1.25)
    tensors = {n: np.ones(spec.shape, np.float32) for n, spec in torch_names(config).items()}
    from_tree(to_tree(tensors, config), config)
    to_tree(tensors, dataclasses.replace(config, dtype="bfloat16"))
    assert len(traced) == 1


def test_packaged_weights_are_read_without_jax_and_their_networks():
    code = (
        "import sys; from drsformer_jax.checkpoints.weights import load_weights\n"
        f"for name in {list(packaged())}: load_weights(name)\n"
        "print([m for m in ('jax', 'drsformer_jax.models.drsformer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
