"""What chips tell each other in a training step: the mean of the gradients, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from drsformer_jax.errors import UserError
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params
from drsformer_jax.planning.ahead_of_time import compile_forward, compile_training, tpu_mesh

ROOT = Path(__file__).resolve().parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'drsformer_jax[tpu]'",
)

# Eight CPU devices have to be asked for before JAX starts.
PROGRAM = """
import dataclasses, jax
from drsformer_jax.models.config import PRESETS
from drsformer_jax.planning.ahead_of_time import compile_training
from drsformer_jax.training.sharding import make_mesh
config = dataclasses.replace(PRESETS["tiny"], unroll=False, remat=True)
options = {"xla_backend_optimization_level": 0}
program = compile_training(config, make_mesh(), batch=8, size=8, compiler_options=options)
print(len(jax.devices()), sorted(program.collectives))
"""


def test_eight_devices_only_add_their_gradients() -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["8 ['all-reduce']"]


@needs_libtpu
def test_tpus_only_add_their_gradients() -> None:
    config = dataclasses.replace(PRESETS["tiny"], dtype="bfloat16", platform="tpu", unroll=False)
    program = compile_training(config, tpu_mesh("v5e:2x2"), batch=4, size=16)
    assert set(program.collectives) == {"all-reduce"}
    assert program.cycles > 0


@needs_libtpu
def test_forward_on_one_chip() -> None:
    config = dataclasses.replace(PRESETS["tiny"], dtype="bfloat16", platform="tpu", unroll=False)
    program = compile_forward(config, tpu_mesh("v5e:2x2", chips=1), batch=2, size=16)
    assert program.collectives == {}
    assert program.cycles > 0
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert program.memory_bytes > 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


def test_unknown_topology_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match=r"no compiler for the topology 'v0:1x1' .*\[tpu\]"):
        tpu_mesh("v0:1x1")
