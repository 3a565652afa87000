"""All that changes from one training step to the next."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params, init_params

_LOW = 2**32


@flax.struct.dataclass
class TrainState:
    """Parameters and optimiser state after `step` steps.

    Attributes:
      step: int32 scalar.
      params: float32 parameters.
      opt_state: of the optimiser of `training.optimizer`.
      ema_params: moving average of the parameters, or None.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema_params: Params | None = None

    @property
    def best_params(self) -> Params:
        """What to evaluate and ship: the moving average where there is one."""
        return self.params if self.ema_params is None else self.ema_params


def seed_key(seed: int) -> jax.Array:
    """The random key of a seed of 64 bits; below 2**32 that of `jax.random.key`.

    JAX drops the bits above, unless all its integers are to have 64.
    """
    key = jax.random.key(seed % _LOW)
    return key if seed < _LOW else jax.random.fold_in(key, seed // _LOW)


def create_train_state(
    config: DRSformerConfig,
    optimizer: optax.GradientTransformation,
    seed: int,
    initial: Params | None = None,
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step, from a seed alone or with the parameters `initial`."""
    # Copies: the step donates its state, and no buffer can be given away twice.
    if initial is None:
        params = init_params(config, seed_key(seed))
    else:
        params = jax.tree.map(jnp.array, initial)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=jax.jit(optimizer.init)(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )
