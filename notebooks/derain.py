# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Take the rain out of a photograph
#
# DRSformer (CVPR 2023) in JAX. Runs on a CPU, a GPU or a TPU; on a CPU a photograph takes about a
# second, after ten for compiling. It needs `pip install 'drsformer_jax[demo]'`.

# %%
import matplotlib.pyplot as plt
import numpy as np

from drsformer_jax import Derainer

# %% [markdown]
# A rainy photograph: one that scikit-image brings along, with rain rendered over it. Put your own
# in its place, as an array `uint8 H W 3`.

# %%
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.data.synthetic.rain import add_rain, sample_rain

rng = np.random.default_rng(1)
_, clean = embedded_photographs("test")[0]
clean = clean[60:316, 90:410]
rainy = add_rain(clean, sample_rain("medium", rng), rng)

# %% [markdown]
# The weights that come with the package. `Derainer.load` also takes a `.safetensors` or `.pth`
# file, the workdir of a training run, and `hf://ORG/NAME`.

# %%
derain = Derainer.load()
restored = derain(rainy)

# %% [markdown]
# What was taken out is the difference. It should show rain, and nothing of the picture.

# %%
layer = np.clip(3 * (rainy.astype(int) - restored) + 128, 0, 255).astype(np.uint8)
figure, axes = plt.subplots(1, 4, figsize=(16, 4))
for axis, (title, image) in zip(
    axes,
    {
        "rainy": rainy,
        "restored": restored,
        "what was taken out, x 3": layer,
        "clean": clean,
    }.items(),
    strict=True,
):
    axis.imshow(image)
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# Scores by the formula of Rain200, on luminance, as in the papers' tables.

# %%
from drsformer_jax.scores.metrics import score_restored

pair = {"name": "astronaut", "input": rainy, "target": clean}
for name, value in score_restored(pair, restored, "rain200").items():
    print(f"{name:11} {value:.3f}")
