"""Takes the rain out of an array: uint8 RGB of any height and width, in and out.

python examples/derain_an_array.py
"""

import numpy as np

from drsformer_jax import Derainer
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.data.synthetic.rain import add_rain, sample_rain

rng = np.random.default_rng(0)
name, clean = embedded_photographs("test")[0]
clean = clean[60:316, 90:410]
rainy = add_rain(clean, sample_rain("light", rng), rng)

derain = Derainer.load()  # the packaged weights, or a file, or the workdir of a run
derained = derain(rainy)

for label, image in (("rainy", rainy), ("derained", derained)):
    error = np.abs(image.astype(int) - clean).mean()
    print(f"{label:9} {name} {image.shape}: mean error {error:.2f} of 255")
