"""PyTorch networks that differ from DRSformer in one detail each, as faulty ports do."""

from __future__ import annotations

import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from drsformer_jax.parity.torch_drsformer import (
    Attention,
    ChannelNorm,
    Downsample,
    FeedForward,
    Upsample,
)


def replace_forward(
    module: nn.Module, kind: type[nn.Module], forward: Callable[..., Tensor]
) -> None:
    for part in module.modules():
        if isinstance(part, kind):
            part.forward = types.MethodType(forward, part)


def normalise(norm: ChannelNorm, x: Tensor, epsilon: float, *, unbiased: bool) -> Tensor:
    variance = x.var(dim=1, keepdim=True, unbiased=unbiased)
    y = (x - x.mean(dim=1, keepdim=True)) / torch.sqrt(variance + epsilon)
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def another_epsilon(module: nn.Module) -> None:
    replace_forward(module, ChannelNorm, lambda norm, x: normalise(norm, x, 1e-6, unbiased=False))


def unbiased_variance(module: nn.Module) -> None:
    replace_forward(module, ChannelNorm, lambda norm, x: normalise(norm, x, 1e-5, unbiased=True))


def another_k(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, Attention):
            part.counts = lambda channels: (
                channels // 2,
                channels * 2 // 3,
                channels // 2,
                channels,
            )


def another_unshuffle_order(module: nn.Module) -> None:
    def forward(down: Downsample, x: Tensor) -> Tensor:
        y = down.body(x)
        return y.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)

    replace_forward(module, Downsample, forward)


def another_shuffle_order(module: nn.Module) -> None:
    def forward(up: Upsample, x: Tensor) -> Tensor:
        conv, shuffle = up.body
        return shuffle(conv(x).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2))

    replace_forward(module, Upsample, forward)


def swapped_group_channels(module: nn.Module) -> None:
    """Output g of the grouped convolutions sees channels 2g + 1 and 2g."""

    def swap(grouped: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].unflatten(1, (-1, 2)).flip(2).flatten(1, 2),)

    for part in module.modules():
        if isinstance(part, FeedForward):
            part.dwconv3x3_1.register_forward_pre_hook(swap)


def counted_padding(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.AvgPool2d):
            part.count_include_pad = True


# The change, and the module that must be named for it.
MUTANTS: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "another epsilon": (another_epsilon, "encoder_level1.0.norm1"),
    "unbiased variance": (unbiased_variance, "encoder_level1.0.norm1"),
    "another k": (another_k, "encoder_level1.0.attn"),
    "another order in pixel-unshuffle": (another_unshuffle_order, "down1_2"),
    "another order in pixel-shuffle": (another_shuffle_order, "up4_3"),
    "grouped channels swapped": (swapped_group_channels, "encoder_level1.0.ffn"),
    "padding counted in the pool": (counted_padding, "encoder_level0.layers.1._ops.0"),
}
