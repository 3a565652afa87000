"""Rain200L, light rain: 1,800 training and 200 test pairs, the network without MEFC.

    python train.py --config configs/rain200l.py --workdir runs/rain200l
    python eval.py --config configs/rain200l.py --workdir runs/rain200l

The paper reports 41.23 dB / 0.9894 (protocol rain200).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "rain200l"
    config.model.preset = "drsformer_no_mefc"
    config.data.train = "data/Rain200L/train"
    config.data.val = "data/Rain200L/test"
    config.eval.data_set = "rain200l"
    return config
