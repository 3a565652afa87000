"""What one program computed for one image, module by module; the common form of both sides."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from drsformer_jax.checkpoints.torch_names import torch_names
from drsformer_jax.models.config import DRSformerConfig

# Of a module that is compared, (one of its tensors, the module being the group; its kind; how many
# keys at the end of our tensor's path lead on from the module).
_PROBED = (
    (r"(.+\.norm\d)\.body\.weight", "LN", 1),
    (r"(.+\.attn)\.temperature", "TKSA", 1),
    (r"(.+\.ffn)\.project_in\.weight", "MSFN", 2),
    (r"(.+\.ca_fc)\.2\.weight", "gate", 1),
    (r"(.+\.preprocess\.op\.0)\.weight", "convolution", 1),
    (r"(.+\._ops\.\d)\._out\.0\.weight", "MEFC step", 2),
    (r"(down\d_\d)\.body\.0\.weight", "down-sampling", 1),
    (r"(up\d_\d)\.body\.0\.weight", "up-sampling", 1),
    (r"(patch_embed)\.proj\.weight", "convolution", 1),
    (r"(reduce_chan_level\d|output)\.weight", "convolution", 1),
)
# Likewise of a module that decides something. (Where MEFC adds two values behind ReLUs, none is
# left open. That of a separable expert is behind its first pair of convolutions.)
_DECIDING = (
    (r"(.+\.attn)\.temperature", "top-k", 1),
    (r"(.+\.ffn\.dwconv\w+)\.weight", "ReLU", 1),
    (r"(.+\.ca_fc\.0)\.weight", "ReLU", 1),
    (r"(.+\.preprocess\.op\.0)\.weight", "ReLU", 1),
    (r"(.+\._ops\.\d\._ops\.[0-3]\.op\.1)\.weight", "ReLU", 1),
    (r"(.+\._ops\.\d\._out\.0)\.weight", "ReLU", 2),
)

BRANCHES = 4
RESTORED = "restored image"


@dataclasses.dataclass(frozen=True)
class Place:
    """A module of the network, in both programs.

    Attributes:
      name: as PyTorch names it.
      kind: what is compared or decided there, as in the tables above; "image" of the result.
      path: of the same module in our parameter tree.
      index: in the stack of a level's blocks or of a MEFC's steps; None where nothing is stacked.
    """

    name: str
    kind: str
    path: tuple[str, ...]
    index: int | None = None


def probes_of(config: DRSformerConfig) -> tuple[Place, ...]:
    """Where values are compared, in the order in which the network computes them.

    Of a MEFC step it is the state after it, of the gate its logits, of `RESTORED` the sum of output
    and input.
    """
    return (*_places(config, _PROBED), Place(RESTORED, "image", ()))


def decisions_of(config: DRSformerConfig) -> tuple[Place, ...]:
    """Where the network decides which logits to keep, or which side of zero a value is on.

    There its result or its gradient jumps, and two correct programs may decide differently where
    rounding does. In front of a ReLU it is the layer, or the module with the method `mix`. In the
    order of the network.
    """
    return tuple(_places(config, _DECIDING))


def _places(config: DRSformerConfig, table: tuple[tuple[str, str, int], ...]) -> Iterator[Place]:
    for name, spec in torch_names(config).items():
        for pattern, kind, below in table:
            if match := re.fullmatch(pattern, name):
                yield Place(match[1], kind, spec.path[:-below], spec.index)


@dataclasses.dataclass(frozen=True)
class SignFlips:
    """Values in front of ReLUs whose sign is another one than the other program's.

    Attributes:
      count, total: how many, and of how many values.
      largest: of them in any layer, relative to the largest value of that layer.
      layer: PyTorch's name of the layer where it is.
    """

    count: int
    total: int
    largest: float
    layer: str


@dataclasses.dataclass
class Recording:
    """The values of one run of one program.

    Attributes:
      outputs: by probe name, B C H W (the gate: B 32); a program may lack some.
      chosen: by the name of an attention module, what its branches keep: bool, branches B heads
        c c; absent where a program does not show its choice.
      logits: by the same names, what was chosen from: B heads c c; may be absent.
      gradients: by PyTorch's parameter name and in its layout, or None if none were asked for.
      active: by the name of the layer in front of a ReLU, where its output is positive; bool, kept
        with gradients.
      flips: how signs in front of ReLUs differ from those of the program that was followed, kept
        with gradients; None where none was, or it does not show them.
    """

    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    chosen: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    logits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    gradients: dict[str, np.ndarray] | None = None
    active: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    flips: SignFlips | None = None


def loss_weights(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed weights whose product with the restored image is the loss of `--gradients`.

    Smooth in the image, unlike L1, so that a sign that flips at rounding is not mistaken for an
    error; random, so that no error cancels; scaled so that the loss is of the order of one.

    Args:
      shape: of the restored image, B C H W.
    """
    weights = np.random.default_rng(0).standard_normal(shape)
    return weights / np.sqrt(weights.size)
