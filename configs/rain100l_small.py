"""A small network for light rain, trained on two CPU cores: what `rain_small` started from.

python train.py --config configs/rain100l_small.py --workdir runs/rain100l_small
python eval.py --config configs/rain100l_small.py --workdir runs/rain100l_small

4,000 steps took an hour and a half on two busy CPU cores. Over every fifth test pair (20 images):
34.79 dB / 0.9624 by protocol rain200, the rainy images having 27.19 dB / 0.8410.
"""

from ml_collections import ConfigDict

from configs import rain100l


def get_config() -> ConfigDict:
    config = rain100l.get_config()
    config.name = "rain100l_small"
    config.model.preset = "small"
    config.total_steps = 4_000
    config.global_batch = 8
    config.patch_size = 64
    # A short run wants a higher rate, and the whole of the fall.
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.hold_steps = 1_000
    config.optimizer.decay_steps = 3_000
    config.checkpoint_every = 250
    config.log_every = 25
    config.data.threads = 2
    return config
