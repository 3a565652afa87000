"""The fastest of the packaged weights, for films: a fifth of `rain_compact`'s parameters.

python train.py --config configs/rain_xs.py --workdir runs/rain_xs

Mixes rain as `rain_compact` does, from fresh parameters. The packaged file is the average of the
last two of several runs of this kind, each from the weights of those before: docs/models.md has
them, the scores and what the weights cannot do.
"""

from ml_collections import ConfigDict

from configs import rain_compact


def get_config() -> ConfigDict:
    config = rain_compact.get_config()
    config.name = "rain_xs"
    config.init = ""
    config.model.preset = "xs"
    config.model.num_blocks = None
    config.total_steps = 14_000
    config.progressive = ((14_000, 4, 64),)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.hold_steps = 4_500
    config.optimizer.decay_steps = 9_500
    return config
