"""The packaged default weights: one compact network for light and heavy rain, on two CPU cores.

python tools/deepen_weights.py rain_small deeper.safetensors --blocks 2 2 3 3
python train.py --config configs/rain_compact.py --workdir runs/rain_compact

Starts from the weights of the smaller network (`rain_small`), with more blocks, and mixes rain
anew for every patch, as `compact` does. The schedule is that of the fifth of the eight runs that
made the packaged file, which was ended after step 5,400; the first six had a block less at full
resolution on either side. docs/models.md has them, the scores, the curve and what the weights
cannot do.
"""

from ml_collections import ConfigDict

from configs import compact


def get_config() -> ConfigDict:
    config = compact.get_config()
    config.name = "rain_compact"
    config.init = "deeper.safetensors"
    config.model.num_blocks = (2, 2, 3, 3)
    config.total_steps = 6_000
    config.progressive = ((5_400, 4, 64), (600, 1, 128))
    config.ema_decay = 0.998
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 50
    config.optimizer.hold_steps = 1_200
    config.optimizer.decay_steps = 4_800
    config.eval_every = 3_000

    # A small network learns what is asked of it: rain that falls down, nearly as it was found, over
    # photographs that are not those of JPEG quality 75 for the most part.
    config.data.augment = "mirror"
    rain100l, *others = config.data.train
    config.data.train = (rain100l, rain100l, rain100l, *others)
    config.data.rain.gain = (0.9, 1.3)
    config.data.rain.warped = 0.2
    config.data.rain.second = 0.08
    config.data.rain.dense = 0.12
    config.data.rain.mist = 0.05
    config.data.rain.shares.none = 0.03
    config.data.rain.shares.light = 0.38
    config.data.rain.shares.heavy = 0.46
    config.data.rain.shares.streaks = 0.05
    config.data.rain.shares.rendered = 0.03
    config.data.rain.shares.pairs = 0.05
    return config
