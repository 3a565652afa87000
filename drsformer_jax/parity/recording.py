"""What one program computed for one image, module by module; the common form of both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from drsformer_jax.checkpoints.rules import MEFC_STEPS, MODULES
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.mefc import SEPARABLE_KERNELS

Kind = Literal[
    "convolution",
    "gate",
    "MEFC step",
    "LN",
    "TKSA",
    "MSFN",
    "down-sampling",
    "up-sampling",
    "image",
]

_BLOCK_PARTS: dict[str, Kind] = {"norm1": "LN", "attn": "TKSA", "norm2": "LN", "ffn": "MSFN"}

BRANCHES = 4
RESTORED = "restored image"


@dataclasses.dataclass(frozen=True)
class Probe:
    """A place in the network whose value is compared.

    Attributes:
      name: as PyTorch names the module; of a MEFC step it is the state after it that counts, of
        the gate its logits, of `RESTORED` the sum of output and input.
      kind: what the module is.
      path: of the same module in our parameter tree.
      index: in the stack of a level's blocks or of a MEFC's steps; None where nothing is stacked.
    """

    name: str
    kind: Kind
    path: tuple[str, ...]
    index: int | None = None


def probes_of(config: DRSformerConfig) -> tuple[Probe, ...]:
    """All probes of a network, in the order in which it computes them."""
    probes: list[Probe] = []
    for module in MODULES:
        name = module.name
        if module.kind == "blocks":
            for i in range(config.num_blocks[module.level]):
                parts: tuple[tuple[str, Kind], ...] = (
                    ("norm1", "LN"),
                    ("attn", "TKSA"),
                    ("norm2", "LN"),
                    ("ffn", "MSFN"),
                )
                probes += [
                    Probe(f"{name}.{i}.{part}", kind, (name, part), i) for part, kind in parts
                ]
        elif module.kind == "mefc":
            if config.use_mefc:
                probes += _compensator_probes(name)
        else:
            probes.append(Probe(name, _single_kind(name), (name,)))
    return (*probes, Probe(RESTORED, "image", ()))


def _compensator_probes(name: str) -> list[Probe]:
    return [
        Probe(f"{name}.layers.0.ca_fc", "gate", (name, "gate", "dense1")),
        Probe(f"{name}.layers.1.preprocess.op.0", "convolution", (name, "preprocess")),
        *(
            Probe(f"{name}.layers.1._ops.{i}", "MEFC step", (name, "steps"), i)
            for i in range(MEFC_STEPS)
        ),
    ]


def _single_kind(name: str) -> Kind:
    if name.startswith("down"):
        return "down-sampling"
    return "up-sampling" if name.startswith("up") else "convolution"


@dataclasses.dataclass(frozen=True)
class Decision:
    """A place where the network decides: which logits to keep, or which side of zero a value is on.

    There its result or its gradient jumps, and two correct programs may decide differently where
    rounding does.

    Attributes:
      name: of the PyTorch module: of an attention, or of the layer in front of a ReLU.
      kind: what is decided.
      path: of our module, or of the one whose method `mix` stands in front of the ReLU.
      index: in the stack of a level's blocks or of a MEFC's steps; None where nothing is stacked.
    """

    name: str
    kind: Literal["top-k", "ReLU"]
    path: tuple[str, ...]
    index: int | None = None


def decisions_of(config: DRSformerConfig) -> tuple[Decision, ...]:
    """All decisions of a network. (Where MEFC adds two values behind ReLUs, none is left open.)"""
    decisions: list[Decision] = []
    for module in MODULES:
        name = module.name
        if module.kind == "blocks":
            for i in range(config.num_blocks[module.level]):
                decisions.append(Decision(f"{name}.{i}.attn", "top-k", (name, "attn"), i))
                decisions += [
                    Decision(f"{name}.{i}.ffn.{layer}", "ReLU", (name, "ffn", layer), i)
                    for layer in ("dwconv3x3", "dwconv5x5", "dwconv3x3_1", "dwconv5x5_1")
                ]
        elif module.kind == "mefc" and config.use_mefc:
            decisions += _compensator_decisions(name)
    return tuple(decisions)


def _compensator_decisions(name: str) -> Iterator[Decision]:
    yield Decision(f"{name}.layers.0.ca_fc.0", "ReLU", (name, "gate", "dense0"))
    yield Decision(f"{name}.layers.1.preprocess.op.0", "ReLU", (name, "preprocess"))
    for i in range(MEFC_STEPS):
        step = f"{name}.layers.1._ops.{i}"
        for expert in range(len(SEPARABLE_KERNELS)):
            path = (name, "steps", f"expert{expert}", "pointwise0")
            yield Decision(f"{step}._ops.{expert}.op.1", "ReLU", path, i)
        yield Decision(f"{step}._out.0", "ReLU", (name, "steps"), i)


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
    """

    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    chosen: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    logits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    gradients: dict[str, np.ndarray] | None = None
    active: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def loss_weights(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed weights whose product with the restored image is the loss of `--gradients`.

    Smooth in the image, unlike L1, so that a sign that flips at rounding is not mistaken for an
    error; random, so that no error cancels; scaled so that the loss is of the order of one.

    Args:
      shape: of the restored image, B C H W.
    """
    weights = np.random.default_rng(0).standard_normal(shape)
    return weights / np.sqrt(weights.size)
