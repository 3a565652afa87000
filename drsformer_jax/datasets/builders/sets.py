"""One builder a data set, by the names of `data.sets`: `tfds.builder("rain200h/raw", ...)`."""

from __future__ import annotations

from drsformer_jax.datasets.builders.pairs import PairsBuilder


class Rain200L(PairsBuilder):
    """Light rain, Yang et al. 2017."""

    name = "rain200l"


class Rain200H(PairsBuilder):
    """Heavy rain, Yang et al. 2017."""

    name = "rain200h"


class DIDData(PairsBuilder):
    """Three densities of rain, Zhang and Patel 2018."""

    name = "did"


class DDNData(PairsBuilder):
    """Fourteen rains over each photograph, Fu et al. 2017."""

    name = "ddn"


class SPAData(PairsBuilder):
    """Real rain, Wang et al. 2019."""

    name = "spa"


class Rain100L(PairsBuilder):
    """Light rain, the first version, Yang et al. 2017."""

    name = "rain100l"


class Rain100H(PairsBuilder):
    """Heavy rain, the first version, Yang et al. 2017."""

    name = "rain100h"


class Rain800(PairsBuilder):
    """Both sides of a pair in one file, Zhang et al. 2017."""

    name = "rain800"
