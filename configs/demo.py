"""The demonstration: a tiny network, synthetic rain over the photographs inside scikit-image.

python train.py --config configs/demo.py --workdir runs/demo
python eval.py --config configs/demo.py --workdir runs/demo

400 steps, about four minutes of CPU time; the held-out photographs gain about 6 dB.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "demo"
    config.model.preset = "tiny"
    config.total_steps = 400
    config.global_batch = 4
    config.patch_size = 64
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 20
    config.optimizer.hold_steps = 200
    config.optimizer.decay_steps = 200
    config.log_every = 20
    config.eval_every = 100
    config.checkpoint_every = 200
    config.data.kind = "synthetic"
    config.data.train = "embedded"
    config.data.val = "embedded"
    config.data.rain_level = "medium"
    config.data.rain_versions = 1_000
    config.data.threads = 2
    return config
