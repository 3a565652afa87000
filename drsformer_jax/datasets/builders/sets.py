"""One builder a data set, by the names of `data.sets`: `tfds.builder("rain200h/raw", ...)`."""

from __future__ import annotations

from drsformer_jax.data.sets import SETS
from drsformer_jax.datasets.builders.pairs import PairsBuilder

for _data_set in SETS.values():
    # Making the class is what registers it.
    type(
        _data_set.title.replace("-", ""),
        (PairsBuilder,),
        {"name": _data_set.name, "__doc__": _data_set.content, "__module__": __name__},
    )
