"""A training step of your own: the network is a pure function, all else is Optax.

python examples/training_step.py
"""

import jax
import jax.numpy as jnp
import optax

from drsformer_jax import restore
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params

config = PRESETS["tiny"]
params = init_params(config, jax.random.key(0))
optimizer = optax.adamw(1e-3)
state = optimizer.init(params)


@jax.jit
def step(params, state, rainy, clean):
    loss, gradient = jax.value_and_grad(
        lambda params: jnp.mean(jnp.abs(restore(config, params, rainy) - clean))
    )(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


clean = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))  # B H W C, RGB in [0, 1]
for i in range(5):
    params, state, loss = step(params, state, jnp.clip(clean + 0.2, 0, 1), clean)
    print(f"step {i + 1}: mean absolute error {loss:.4f}")
