"""DDN-Data, fourteen rains a photograph: 12,600 training and 1,400 test pairs, with MEFC.

    python train.py --config configs/ddn_data.py --workdir runs/ddn_data
    python eval.py --config configs/ddn_data.py --workdir runs/ddn_data

The paper reports 34.35 dB / 0.9588 (protocol did_ddn).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "ddn_data"
    config.data.train = "data/DDN-Data/train"
    config.data.val = "data/DDN-Data/test"
    config.eval.protocol = "did_ddn"
    config.eval.data_set = "ddn"
    return config
