"""DID-Data, three rain densities: 12,000 training and 1,200 test pairs, with MEFC.

    python train.py --config configs/did_data.py --workdir runs/did_data
    python eval.py --config configs/did_data.py --workdir runs/did_data

The paper reports 35.35 dB / 0.9646 (protocol did_ddn).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "did_data"
    config.data.train = "data/DID-Data/train"
    config.data.val = "data/DID-Data/test"
    config.eval.protocol = "did_ddn"
    config.eval.data_set = "did"
    return config
