# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train on a GPU or a TPU of Colab or Kaggle
#
# Choose an accelerator for the notebook first; the next cell stops where there is none. Run it in a
# clone of the repository, after `pip install '.[cuda12,demo]'` on a GPU, `'.[tpu,demo]'` on a TPU.

# %%
import os

import jax

print(jax.devices())
if jax.default_backend() == "cpu" and "DRSFORMER_NOTEBOOK_ON_CPU" not in os.environ:
    raise SystemExit("no GPU or TPU: choose one in the notebook's settings (Runtime, Change type)")

# %% [markdown]
# A configuration is a small Python file. This one renders rain over the photographs that
# scikit-image brings along: no data to download. For pairs of your own set `config.data.kind` to
# `"folder"` and `config.data.train` to a folder with `input/` and `target/`.

# %%
from drsformer_jax.training.config import training_options
from configs import demo

config = demo.get_config()
config.total_steps = int(os.environ.get("DRSFORMER_NOTEBOOK_STEPS", "300"))
config.optimizer.hold_steps = config.total_steps // 2
config.optimizer.decay_steps = config.total_steps - config.total_steps // 2
options = training_options(config)
print(options.model.summary())

# %% [markdown]
# The same call as `train.py`'s. All of a run is in its workdir: run the cell again, and it carries
# on, to the bit. On Colab name a folder of your Drive, and nothing is lost when the machine goes.

# %%
from pathlib import Path

from drsformer_jax import train
from drsformer_jax.data.configured import training_source, validation_source
from drsformer_jax.training.validation import Validator

workdir = Path(os.environ.get("DRSFORMER_NOTEBOOK_WORKDIR", "runs/notebook"))
largest = max(stage.patch_size for stage in options.stages)
state = train(
    config.to_dict(),
    options,
    training_source(config.data, options.seed, largest),
    workdir,
    Validator(options.model, validation_source(config.data)),
)

# %% [markdown]
# The curve, and the newest weights at work.

# %%
import json

import matplotlib.pyplot as plt

records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
steps, losses = zip(*((r["step"], r["loss"]) for r in records if "loss" in r), strict=True)
plt.plot(steps, losses)
plt.xlabel("step")
plt.ylabel("loss")
plt.show()

# %%
from drsformer_jax import Derainer

derain = Derainer.load(workdir)
print("parameters:", sum(x.size for x in jax.tree.leaves(derain.params)))
