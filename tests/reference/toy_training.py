"""A network of a few numbers in the place of the real one, so that a loop takes no time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import base
from drsformer_jax.training.config import TrainingOptions, training_options


def toy_init_params(config: Any, rng: jax.Array) -> dict[str, Any]:
    """A 3x3 colour matrix near the identity, an offset, and a table of which the mean is added.

    The table is large enough to be split over devices, and a matrix to Muon.
    """
    del config
    mix = jnp.eye(3) + 0.1 * jax.random.normal(rng, (3, 3))
    return {"mix": mix, "offset": jnp.zeros(3), "table": {"kernel": 0.1 * jnp.ones((64, 64))}}


def toy_restore(config: Any, params: dict[str, Any], image: jax.Array) -> jax.Array:
    del config
    return image @ params["mix"] + params["offset"] + jnp.mean(params["table"]["kernel"])


class RandomPairs:
    """Images and something darker; a source as training wants one."""

    def __init__(self, count: int = 7) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        return {"input": image, "target": image // 2, "name": str(index)}


def small_config(**changes: Any) -> ConfigDict:
    """The base recipe, small; keys as on the command line, with `__` for the dot."""
    config = base.get_config()
    config.model.preset = "tiny"
    config.global_batch = 4
    config.patch_size = 8
    config.total_steps = 6
    config.checkpoint_every = 2
    config.eval_every = 3
    config.log_every = 2
    config.optimizer.learning_rate = 0.01
    config.optimizer.hold_steps = 3
    config.optimizer.decay_steps = 3
    config.data.threads = 1
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def options_of(config: ConfigDict) -> TrainingOptions:
    return training_options(config)
