"""SPA-Data, real rain: 638,492 training and 1,000 test pairs, the network without MEFC.

    python train.py --config configs/spa_data.py --workdir runs/spa_data
    python eval.py --config configs/spa_data.py --workdir runs/spa_data

The paper reports 48.54 dB / 0.9924 (protocol rain200).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "spa_data"
    config.model.preset = "drsformer_no_mefc"
    config.data.train = "data/SPA-Data/train"
    config.data.val = "data/SPA-Data/test"
    config.eval.data_set = "spa"
    return config
