"""The forward pass for a chip that is not there; the training step is in tests/cli/test_plan.py."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import (
    NormalisedAttention,
    NormalisedFeedForward,
    SparseTransformerBlock,
    init_params,
)
from drsformer_jax.models.mefc import FeatureCompensator
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import forms
from drsformer_jax.planning.ahead_of_time import compile_forward
from drsformer_jax.planning.topology import tpu_mesh
from drsformer_jax.training.sharding import replicated

pytestmark = pytest.mark.usefixtures("no_flags")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'drsformer_jax[tpu]'",
)


@needs_libtpu
def test_forward_on_one_chip() -> None:
    config = dataclasses.replace(PRESETS["tiny"], dtype="bfloat16", platform="tpu", unroll=False)
    program = compile_forward(config, tpu_mesh("v5e:2x2", chips=1), batch=2, size=16)
    assert program.collectives == {}
    assert program.cycles > 0
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert program.memory_bytes > 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


def test_unknown_topology_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match="'v0' is none of v4, v5e, v5p, v6e"):
        tpu_mesh("v0:1x1")
    # libtpu's own, or its absence.
    with pytest.raises(UserError, match=r"no compiler for the topology 'v5e:3x7' .*\[tpu\]"):
        tpu_mesh("v5e:3x7")


@pytest.mark.parametrize("topology", ["v5e", "v5e:", "v5e:0x0", "v5e:4x", "v5e:4x-4", "v5e:4,4"])
def test_topology_that_is_none_never_reaches_the_compiler(topology: str) -> None:
    with pytest.raises(UserError, match="must be a chip and sizes, such as v5e:4x4"):
        tpu_mesh(topology)


@needs_libtpu
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:16x16", "v5p:2x2x1", "v6e:2x2"])
def test_a_chip_is_one_device(topology: str) -> None:
    sizes = map(int, topology.partition(":")[2].split("x"))
    assert tpu_mesh(topology).size == math.prod(sizes)


COMPENSATOR, ATTENTION = FeatureCompensator(), NormalisedAttention(PRESETS["drsformer"], 2)
FEED_FORWARD = NormalisedFeedForward(PRESETS["drsformer"])
BLOCK = SparseTransformerBlock(PRESETS["drsformer"], 2)


@needs_libtpu
@pytest.mark.parametrize(
    ("module", "channels", "topology", "vmem"),
    [
        (COMPENSATOR, 48, "v5e:2x2", 128),
        (ATTENTION, 96, "v5e:2x2", 128),
        (ATTENTION, 96, "v5p:2x2x1", 14),
        (FEED_FORWARD, 48, "v5e:2x2", 128),
        (FEED_FORWARD, 192, "v5e:2x2", 128),
        (FEED_FORWARD, 48, "v5p:2x2x1", 14),
        (BLOCK, 96, "v5e:2x2", 128),
        pytest.param(COMPENSATOR, 48, "v5p:2x2x1", 14, marks=pytest.mark.slow),
    ],
)
def test_kernels_and_their_gradients_compile(
    module: nn.Module, channels: int, topology: str, vmem: int
) -> None:
    """Whole images, and strips for little fast memory."""
    mesh = tpu_mesh(topology, chips=1)
    how = Execution(dtype="bfloat16", platform="tpu", kernels="on", vmem=vmem)
    x = jax.ShapeDtypeStruct((2, channels, 32, 64), jnp.bfloat16)
    shapes = jax.eval_shape(module.init, jax.random.key(0), Image(jnp.ones((1, channels, 8, 8))))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jax.tree.leaves(module.apply(params, Image(x, how)))[0]))

    gradients = jax.jit(
        jax.grad(loss, (0, 1)), in_shardings=replicated(mesh), out_shardings=replicated(mesh)
    )
    with forms.refusals() as reasons:
        text = gradients.lower(shapes, x).compile().as_text()
    assert reasons == []
    assert text.count('custom_call_target="tpu_custom_call"') >= 2
