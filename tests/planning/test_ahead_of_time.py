"""The forward pass for a chip that is not there; the training step is in tests/cli/test_plan.py."""

from __future__ import annotations

import dataclasses
import importlib.util
import math

import jax
import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params
from drsformer_jax.planning.ahead_of_time import compile_forward
from drsformer_jax.planning.topology import tpu_mesh

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
