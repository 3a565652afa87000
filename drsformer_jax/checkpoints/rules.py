"""What tensors a DRSformer has: the tables behind the name map.

A row gives a tensor's name in the authors' state_dict (CVPR 2023 release), its place in our
parameter tree, its PyTorch shape in symbols and its layout. Rows stand in the order of the
authors' `named_parameters()`, because an optimizer's state refers to parameters by that order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Layout = Literal["conv", "linear", "plain"]

MEFC_STEPS = 4

# One size of a shape: (number in front, symbol, halved).
SYMBOLIC_SIZE = re.compile(r"(\d*)([CHhIO])(/2)?")


class Rule(NamedTuple):
    """One tensor of a module.

    `shape` is written in symbols: C channels of the level, H hidden channels of MSFN, h heads,
    I and O channels of the input and output image; a number in front multiplies, "C/2" halves.
    `option` names the setting without which the tensor does not exist.
    """

    name: str
    path: str
    shape: str
    layout: Layout = "plain"
    option: str | None = None


def _convolution(name: str, path: str, shape: str, bias: bool = True) -> tuple[Rule, ...]:
    """A convolution; its bias, where it may have one, exists under the option `bias`."""
    weight = Rule(f"{name}.weight", f"{path}/kernel", shape, "conv")
    if not bias:
        return (weight,)
    return (weight, Rule(f"{name}.bias", f"{path}/bias", shape.split()[0], "plain", "bias"))


def _norm(name: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{name}.body.weight", f"{name}/scale", "C"),
        Rule(f"{name}.body.bias", f"{name}/bias", "C", "plain", "WithBias"),
    )


# Sparse Transformer block. PyTorch lists a module's own parameters before its submodules'.
BLOCK_RULES: tuple[Rule, ...] = (
    *_norm("norm1"),
    Rule("attn.temperature", "attn/temperature", "h 1 1"),
    *(Rule(f"attn.attn{i}", f"attn/attn{i}", "1") for i in (1, 2, 3, 4)),
    *_convolution("attn.qkv", "attn/qkv", "3C C 1 1"),
    *_convolution("attn.qkv_dwconv", "attn/qkv_dwconv", "3C 1 3 3"),
    *_convolution("attn.project_out", "attn/project_out", "C C 1 1"),
    *_norm("norm2"),
    *_convolution("ffn.project_in", "ffn/project_in", "2H C 1 1"),
    *_convolution("ffn.dwconv3x3", "ffn/dwconv3x3", "2H 1 3 3"),
    *_convolution("ffn.dwconv5x5", "ffn/dwconv5x5", "2H 1 5 5"),
    *_convolution("ffn.dwconv3x3_1", "ffn/dwconv3x3_1", "H 2 3 3"),
    *_convolution("ffn.dwconv5x5_1", "ffn/dwconv5x5_1", "H 2 5 5"),
    *_convolution("ffn.project_out", "ffn/project_out", "C 2H 1 1"),
)

# MEFC: the gate and the first convolution, once; then the rules of each of the four steps.
MEFC_RULES: tuple[Rule, ...] = (
    Rule("layers.0.ca_fc.0.weight", "gate/dense0/kernel", "64 C", "linear"),
    Rule("layers.0.ca_fc.0.bias", "gate/dense0/bias", "64"),
    Rule("layers.0.ca_fc.2.weight", "gate/dense1/kernel", "32 64", "linear"),
    Rule("layers.0.ca_fc.2.bias", "gate/dense1/bias", "32"),
    *_convolution("layers.1.preprocess.op.0", "preprocess", "C C 1 1", bias=False),
)


def _expert(number: int, size: int, separable: bool) -> Iterator[Rule]:
    # op.2 of a separable expert is its ReLU.
    for pair, (first, second) in enumerate(((0, 1), (3, 4)) if separable else ((0, 1),)):
        torch, ours = f"_ops.{number}.op", f"steps/expert{number}"
        depthwise = f"C 1 {size} {size}"
        yield from _convolution(f"{torch}.{first}", f"{ours}/depthwise{pair}", depthwise, False)
        yield from _convolution(f"{torch}.{second}", f"{ours}/pointwise{pair}", "C C 1 1", False)


MEFC_STEP_RULES: tuple[Rule, ...] = (
    *(rule for i, size in enumerate((1, 3, 5, 7)) for rule in _expert(i, size, separable=True)),
    *(rule for i, size in enumerate((3, 5, 7)) for rule in _expert(4 + i, size, separable=False)),
    *_convolution("_out.0", "steps/out", "C 8C 1 1", bias=False),
)


class Module(NamedTuple):
    """A child of the network: its name (the same on both sides), kind, and where it works.

    `width` multiplies dim to give the channels C; `level` picks num_blocks and heads.
    """

    name: str
    kind: Literal["blocks", "mefc", "single"]
    width: int
    level: int = 0
    rules: tuple[Rule, ...] = ()


def _resampling(name: str, width: int, shape: str) -> Module:
    rules = _convolution(f"{name}.body.0", name, shape, bias=False)
    return Module(name, "single", width, rules=rules)


# In the order in which the authors' module declares them.
MODULES: tuple[Module, ...] = (
    Module(
        "patch_embed",
        "single",
        1,
        rules=_convolution("patch_embed.proj", "patch_embed", "C I 3 3", bias=False),
    ),
    Module("encoder_level0", "mefc", 1),
    Module("encoder_level1", "blocks", 1, 0),
    _resampling("down1_2", 1, "C/2 C 3 3"),
    Module("encoder_level2", "blocks", 2, 1),
    _resampling("down2_3", 2, "C/2 C 3 3"),
    Module("encoder_level3", "blocks", 4, 2),
    _resampling("down3_4", 4, "C/2 C 3 3"),
    Module("latent", "blocks", 8, 3),
    _resampling("up4_3", 8, "2C C 3 3"),
    Module(
        "reduce_chan_level3",
        "single",
        4,
        rules=_convolution("reduce_chan_level3", "reduce_chan_level3", "C 2C 1 1"),
    ),
    Module("decoder_level3", "blocks", 4, 2),
    _resampling("up3_2", 4, "2C C 3 3"),
    Module(
        "reduce_chan_level2",
        "single",
        2,
        rules=_convolution("reduce_chan_level2", "reduce_chan_level2", "C 2C 1 1"),
    ),
    Module("decoder_level2", "blocks", 2, 1),
    _resampling("up2_1", 2, "2C C 3 3"),
    Module("decoder_level1", "blocks", 2, 0),
    Module("refinement", "mefc", 2),
    Module("output", "single", 2, rules=_convolution("output", "output", "O C 3 3")),
)


def rules_of(module: Module, depth: int) -> Iterator[tuple[Rule, str, str, int | None]]:
    """(rule, name in the state_dict, path in our tree, stack index) of one module's tensors."""
    if module.kind == "single":
        for rule in module.rules:
            yield rule, rule.name, rule.path, None
    elif module.kind == "blocks":
        for i in range(depth):
            for rule in BLOCK_RULES:
                yield rule, f"{module.name}.{i}.{rule.name}", f"{module.name}/{rule.path}", i
    else:
        for rule in MEFC_RULES:
            yield rule, f"{module.name}.{rule.name}", f"{module.name}/{rule.path}", None
        for i in range(MEFC_STEPS):
            for rule in MEFC_STEP_RULES:
                name = f"{module.name}.layers.1._ops.{i}.{rule.name}"
                yield rule, name, f"{module.name}/{rule.path}", i
