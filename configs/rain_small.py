"""A smaller, faster network for light and heavy rain, trained on two CPU cores; packaged weights.

python train.py --config configs/rain_small.py --workdir runs/rain_small

Starts from a network for light rain (the recipe `rain100l_small`) and mixes rain anew for every
patch, as `compact` does. The packaged file was trained in five runs of this kind, each from the
weights of the one before: docs/models.md has them, the scores, the curve and what the weights
cannot do.
"""

from ml_collections import ConfigDict

from configs import compact


def get_config() -> ConfigDict:
    config = compact.get_config()
    config.name = "rain_small"
    config.model.preset = "small"
    config.init = "runs/rain100l_small"
    config.total_steps = 5_000
    config.progressive = ((4_400, 4, 64), (600, 2, 96))
    config.optimizer.learning_rate = 6e-4
    config.optimizer.hold_steps = 2_600
    config.optimizer.decay_steps = 2_400
    config.eval_every = 1_000
    config.checkpoint_every = 250
    return config
