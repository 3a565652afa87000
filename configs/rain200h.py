"""Rain200H, heavy rain: 1,800 training and 200 test pairs, the network with MEFC.

    python train.py --config configs/rain200h.py --workdir runs/rain200h
    python eval.py --config configs/rain200h.py --workdir runs/rain200h

The paper reports 32.17 dB / 0.9326 (protocol rain200).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "rain200h"
    config.data.train = "data/Rain200H/train"
    config.data.val = "data/Rain200H/test"
    config.eval.data_set = "rain200h"
    return config
