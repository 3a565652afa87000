"""One compact network for light and heavy rain, trained on layers of rain mixed anew every step.

python train.py --config configs/compact.py --workdir runs/compact

The folders below `data/` are pairs of Rain100L and Rain200H (whose layers are put over other
photographs), Rain800 and clean photographs; docs/data.md says where sets come from. Any other pairs
and photographs will do: every folder is a key.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "compact"
    config.model.preset = "compact"
    config.model.remat = False  # blocks of 16 to 128 channels fit in memory
    config.total_steps = 140_000
    # Statistics of attention are sums over the whole image: the last stage comes near to one.
    config.progressive = ((30_000, 8, 64), (50_000, 8, 96), (60_000, 4, 128))
    config.ema_decay = 0.999
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.hold_steps = 80_000
    config.optimizer.decay_steps = 60_000
    config.log_every = 100
    config.eval_every = 2_000
    config.checkpoint_every = 500

    config.data.kind = "mixed"
    # Clean photographs; of a folder of pairs, its targets.
    with config.data.ignore_type():
        config.data.train = ("data/rain100l/train", "data/rain800/train", "data/photographs")
    config.data.val = "data/val"
    config.data.rain_versions = 1_000_000
    config.data.threads = 2
    config.data.rain = ConfigDict()
    config.data.rain.light = ("data/rain100l/train",)
    config.data.rain.heavy = ("data/rain200h/train",)
    config.data.rain.streaks = ("data/streaks",)
    config.data.rain.pairs = ("data/rain100l/train", "data/rain200h/train", "data/rain800/train")
    config.data.rain.mist = 0.15
    config.data.rain.unknown = 0.03
    config.data.rain.dense = 0.15
    config.data.rain.gain = (0.75, 1.3)
    config.data.rain.warped = 0.5
    config.data.rain.second = 0.3
    config.data.rain.shares = ConfigDict()
    config.data.rain.shares.none = 0.08
    config.data.rain.shares.light = 0.32
    config.data.rain.shares.heavy = 0.38
    config.data.rain.shares.streaks = 0.08
    config.data.rain.shares.rendered = 0.06
    config.data.rain.shares.pairs = 0.08
    return config
