"""Rain100L, light rain: 200 training and 100 test pairs, the network without MEFC.

    python train.py --config configs/rain100l.py --workdir runs/rain100l
    python eval.py --config configs/rain100l.py --workdir runs/rain100l

The paper does not report this data set; its settings are those of Rain200L.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "rain100l"
    config.model.preset = "drsformer_no_mefc"
    config.data.train = "data/Rain100L/train"
    config.data.val = "data/Rain100L/test"
    config.eval.data_set = "rain100l"
    return config
