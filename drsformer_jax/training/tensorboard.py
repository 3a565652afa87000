"""TensorBoard's files, and what is in them beside the numbers of a run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import Params
from drsformer_jax.models.layers import Convolution
from drsformer_jax.models.mefc import EXPERT_NAMES, Gate
from drsformer_jax.ops.image import Image

FOLDER = "tensorboard"

# What the parameters of an attention are called here.
_LEARNED = {
    "attn1": "weight_of_top_1of2",
    "attn2": "weight_of_top_2of3",
    "attn3": "weight_of_top_3of4",
    "attn4": "weight_of_top_4of5",
    "temperature": "temperature",
}


def open_writer(workdir: Path) -> tuple[Any, str]:
    """A writer with the methods of clu's, or None; and what to say of it.

    clu's own needs TensorFlow. Where that is not installed, tensorboardX (extra: tensorboard)
    writes the same files.
    """
    folder = str(workdir / FOLDER)
    if importlib.util.find_spec("tensorflow") is not None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from clu import metric_writers

        return metric_writers.SummaryWriter(folder), f"TensorBoard: {folder}, written by TensorFlow"
    if importlib.util.find_spec("tensorboardX") is not None:
        return _WithoutTensorFlow(folder), f"TensorBoard: {folder}, written by tensorboardX"
    return None, "no TensorBoard files (pip install 'drsformer_jax[tensorboard]' for them)"


class _WithoutTensorFlow:
    """tensorboardX behind those methods of clu's writers that a run calls."""

    def __init__(self, folder: str) -> None:
        with _torch_hidden():
            from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(folder)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """uint8 N H W 3, by name."""
        for name, value in images.items():
            self._writer.add_images(name, value, step, dataformats="NHWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        self._writer.close()


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    """tensorboardX imports PyTorch where it can, to take its tensors; it is given none.

    That would be 2 seconds of processor time and 180 MB at every start of a run.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # importing it is an ImportError
    try:
        yield
    finally:
        del sys.modules["torch"]


def learned(config: DRSformerConfig, params: Params, image: np.ndarray | None) -> dict[str, float]:
    """What a network has learned to look at, by name.

    Args:
      image: uint8 H W 3, which the experts' weights are for; None: they are left out.

    Returns:
      Of each level, the mean over its blocks of the branches' weights and of the temperature; of
      the first feature compensator, the weight of each expert in each step. That of the second
      one would take a forward of the network.
    """
    found = {}
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        names = [str(part.key) for part in path]
        if names[-1] in _LEARNED:
            found[f"{names[0]}/{_LEARNED[names[-1]]}"] = np.mean(value)
    if config.use_mefc and image is not None:
        weights = np.asarray(_first_gate(config, params, image[None]))[0]
        for (step, expert), weight in np.ndenumerate(weights):
            found[f"encoder_level0/step{step + 1}_{EXPERT_NAMES[expert]}"] = weight
    return {name: float(value) for name, value in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _first_gate(config: DRSformerConfig, params: Params, images: jax.Array) -> jax.Array:
    """uint8 B H W C -> B steps experts."""
    inside = jnp.transpose(images, (0, 3, 1, 2)).astype(jnp.float32) / 255
    embed, gate = params["patch_embed"], params["encoder_level0"]["gate"]
    x = Convolution(config.dim, 3).apply({"params": embed}, Image(inside, config.execution))
    weights: Any = Gate().apply({"params": gate}, x)
    return weights
