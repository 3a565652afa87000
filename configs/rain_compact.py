"""The packaged default weights: one compact network for light and heavy rain, on two CPU cores.

python tools/deepen_weights.py rain_small deeper.safetensors --blocks 1 2 3 3
python train.py --config configs/rain_compact.py --workdir runs/rain_compact

Starts from the weights of the smaller network (`rain_small`), with more blocks, and mixes rain
anew for every patch, as `compact` does. The schedule is that of the last of the four runs that made
the packaged file: docs/models.md has them, the scores, the curve and what the weights cannot do.
"""

from ml_collections import ConfigDict

from configs import compact


def get_config() -> ConfigDict:
    config = compact.get_config()
    config.name = "rain_compact"
    config.init = "deeper.safetensors"
    config.total_steps = 13_000
    config.progressive = ((12_200, 4, 64), (800, 2, 96))
    config.ema_decay = 0.998
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 50
    config.optimizer.hold_steps = 3_500
    config.optimizer.decay_steps = 9_500
    config.eval_every = 2_500
    return config
