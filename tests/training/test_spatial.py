"""Training with images that devices share: as on one device, in a process with four of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from reference.programs import environment

STEPS = 3

# A network of two levels with one block, for gradients of the whole one take a minute to compile:
# tests/models/test_network_rows.py has all of its parts.
PROGRAM = """
import json, sys
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
import drsformer_jax.training.step as step_module
from reference.small import TINY
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import SparseTransformerBlock
from drsformer_jax.models.layers import Convolution, Downsampling, Upsampling
from drsformer_jax.ops.image import Image
from drsformer_jax.training.optimizer import OptimizerOptions, make_optimizer
from drsformer_jax.training.sharding import MeshOptions, make_mesh, shard_batch, state_sharding
from drsformer_jax.training.state import TrainState
from drsformer_jax.training.step import compile_train_step

jax.config.update("jax_enable_x64", True)
config = DRSformerConfig(**TINY, bias=True)

class Shallow(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = Convolution(8, 3, name="embed")(x)
        y = Downsampling(16, 3, name="down")(y)
        y = SparseTransformerBlock(config, 2, name="block")(y)[0]
        y = Upsampling(16, 3, name="up")(y)
        return x + Convolution(3, 3, name="output")(y)

def restore(config, params, image):
    x = Image(jnp.transpose(image, (0, 3, 1, 2)), config.execution)
    return jnp.transpose(Shallow().apply({"params": params}, x).array, (0, 2, 3, 1))

step_module.restore = restore
options = OptimizerOptions(learning_rate=1e-3)
optimizer = make_optimizer(options)
rng = np.random.default_rng(0)
shapes = jax.eval_shape(Shallow().init, jax.random.key(0), Image(jnp.zeros((1, 3, 8, 8))))["params"]
params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape) + (x.ndim == 1), shapes)
batches = [
    {name: rng.uniform(size=(4, 16, 8, 3)) for name in ("input", "target")}
    for _ in range(int(sys.argv[1]))
]

def course(devices, accumulation, **sizes):
    mesh = make_mesh(MeshOptions(**sizes), jax.devices()[:devices])
    state = TrainState(np.int32(0), params, optimizer.init(params), None)
    state = jax.device_put(state, state_sharding(state, mesh))
    step = compile_train_step(
        state, config, optimizer, options, mesh,
        accumulation_steps=accumulation,
    )
    found = []
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        found.append({name: float(value) for name, value in metrics.items()})
    kernel = state.params["block"]["ffn"]["project_in"]["kernel"]
    split = kernel.addressable_shards[0].data.size != kernel.size
    return {"metrics": found, "kernel": np.asarray(kernel).ravel().tolist(), "is_split": split}

print(json.dumps({
    "one": course(1, 1),
    "data x spatial": course(4, 1, data=2, spatial=2),
    "fsdp x spatial": course(4, 2, data=1, fsdp=2, spatial=2),
}))
"""


@pytest.fixture(scope="module")
def courses() -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(STEPS)],
        env=environment(devices=4),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", ["data x spatial", "fsdp x spatial"])
def test_the_same_course_of_training(courses: Any, mesh: str) -> None:
    """Losses, norms of gradients and parameters; with accumulation on the second mesh."""
    one, split = courses["one"], courses[mesh]
    assert len(split["metrics"]) == STEPS
    for expected, actual in zip(one["metrics"], split["metrics"], strict=True):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(actual[name], value, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(split["kernel"], one["kernel"], rtol=0, atol=1e-9)


def test_the_state_is_split_where_the_mesh_says_so(courses: Any) -> None:
    found = {name: course["is_split"] for name, course in courses.items()}
    assert found == {"one": False, "data x spatial": False, "fsdp x spatial": True}
