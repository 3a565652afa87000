"""DRSformer in plain PyTorch: the yardstick that the JAX network is compared with.

It computes what the authors' released program computes (CVPR 2023, arXiv 2303.11950) with the
tensor names of their state_dict, so that a state_dict made here stands for one of their
checkpoints. Written to be read, not to be fast. Images are B C H W here; both float32 and float64
work. Modules are declared in the order in which the authors' module yields its parameters,
because an optimizer's state refers to parameters by that order. The file stands alone: it needs
PyTorch and nothing of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NORM_EPSILON = 1e-5
MEFC_STEPS = 4
MEFC_EXPERTS = 8


def conv(
    inputs: int, outputs: int, size: int, bias: bool, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A convolution that keeps height and width (zero padding)."""
    padding = dilation * (size - 1) // 2
    return nn.Conv2d(
        inputs, outputs, size, padding=padding, dilation=dilation, groups=groups, bias=bias
    )


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels at each pixel."""

    def __init__(self, channels: int, subtract_mean: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        if subtract_mean:
            self.bias = nn.Parameter(torch.zeros(channels))
        self.subtract_mean = subtract_mean

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        variance = (x - mean).square().mean(dim=1, keepdim=True)
        # The BiasFree kind divides x itself: the mean stays in.
        numerator = x - mean if self.subtract_mean else x
        y = numerator / torch.sqrt(variance + NORM_EPSILON) * self.weight[:, None, None]
        return y + self.bias[:, None, None] if self.subtract_mean else y


class LayerNorm(nn.Module):
    """Wrapper that puts `body` into the tensor names."""

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.body = ChannelNorm(channels, subtract_mean=kind == "WithBias")

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def normalize(x: Tensor) -> Tensor:
    """x / max(||x||, 1e-12) along the last axis, the squares summed in float64.

    `torch.nn.functional.normalize` sums them one after the other in float32 on CPU: for the 160,000
    pixels of a photograph its norm is off by 3e-6, ten times what all else in an attention rounds.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float64)
    return x / norm.clamp_min(1e-12).to(x.dtype)


class Attention(nn.Module):
    """TKSA, top-k sparse attention between channels."""

    def __init__(self, channels: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.attn1 = nn.Parameter(torch.full((1,), 0.2))
        self.attn2 = nn.Parameter(torch.full((1,), 0.2))
        self.attn3 = nn.Parameter(torch.full((1,), 0.2))
        self.attn4 = nn.Parameter(torch.full((1,), 0.2))
        self.qkv = conv(channels, 3 * channels, 1, bias)
        self.qkv_dwconv = conv(3 * channels, 3 * channels, 3, bias, groups=3 * channels)
        self.project_out = conv(channels, channels, 1, bias)

    def counts(self, per_head: int) -> tuple[int, int, int, int]:
        """How many entries of each row the four branches keep."""
        return (
            int(per_head / 2),
            int(per_head * 2 / 3),
            int(per_head * 3 / 4),
            int(per_head * 4 / 5),
        )

    def logits_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention logits (B, heads, C/heads, C/heads) and values (B, heads, C/heads, H*W)."""
        heads = self.qkv_dwconv(self.qkv(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        q, k, v = heads.unbind(dim=1)
        q, k = normalize(q), normalize(k)
        return (q @ k.transpose(-2, -1)) * self.temperature, v

    def forward(self, x: Tensor) -> Tensor:
        logits, v = self.logits_and_values(x)
        weights = (self.attn1, self.attn2, self.attn3, self.attn4)
        y = torch.zeros_like(v)
        for count, weight in zip(self.counts(logits.shape[-1]), weights, strict=True):
            kept = torch.topk(logits, count, dim=-1).indices
            mask = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, kept, True)
            sparse = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
            y = y + weight * (sparse @ v)
        return self.project_out(y.reshape(x.shape))


class FeedForward(nn.Module):
    """MSFN, mixed-scale feed-forward network."""

    def __init__(self, channels: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(channels * expansion)
        self.hidden = hidden
        self.project_in = conv(channels, 2 * hidden, 1, bias)
        self.dwconv3x3 = conv(2 * hidden, 2 * hidden, 3, bias, groups=2 * hidden)
        self.dwconv5x5 = conv(2 * hidden, 2 * hidden, 5, bias, groups=2 * hidden)
        self.dwconv3x3_1 = conv(2 * hidden, hidden, 3, bias, groups=hidden)
        self.dwconv5x5_1 = conv(2 * hidden, hidden, 5, bias, groups=hidden)
        self.project_out = conv(2 * hidden, channels, 1, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        p = self.dwconv3x3(x).relu()
        s = self.dwconv5x5(x).relu()
        x1 = torch.cat([p[:, : self.hidden], s[:, : self.hidden]], dim=1)
        x2 = torch.cat([p[:, self.hidden :], s[:, self.hidden :]], dim=1)
        y1 = self.dwconv3x3_1(x1).relu()
        y2 = self.dwconv5x5_1(x2).relu()
        return self.project_out(torch.cat([y1, y2], dim=1))


class SparseTransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, expansion: float, bias: bool, norm: str):
        super().__init__()
        self.norm1 = LayerNorm(channels, norm)
        self.attn = Attention(channels, heads, bias)
        self.norm2 = LayerNorm(channels, norm)
        self.ffn = FeedForward(channels, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Gate(nn.Module):
    """Weights of the experts at each step, from the mean over the image: (B, steps, experts)."""

    def __init__(self, channels: int):
        super().__init__()
        outputs = MEFC_STEPS * MEFC_EXPERTS
        self.ca_fc = nn.Sequential(
            nn.Linear(channels, 2 * outputs), nn.ReLU(), nn.Linear(2 * outputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.ca_fc(x.mean(dim=(2, 3)))
        return logits.reshape(-1, MEFC_STEPS, MEFC_EXPERTS).softmax(dim=-1)


class SeparableExpert(nn.Module):
    def __init__(self, channels: int, size: int):
        super().__init__()
        self.op = nn.Sequential(
            conv(channels, channels, size, False, groups=channels),
            conv(channels, channels, 1, False),
            nn.ReLU(),
            conv(channels, channels, size, False, groups=channels),
            conv(channels, channels, 1, False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class DilatedExpert(nn.Module):
    def __init__(self, channels: int, size: int):
        super().__init__()
        self.op = nn.Sequential(
            conv(channels, channels, size, False, groups=channels, dilation=2),
            conv(channels, channels, 1, False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class MefcStep(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self._ops = nn.ModuleList(
            [
                *(SeparableExpert(channels, size) for size in (1, 3, 5, 7)),
                *(DilatedExpert(channels, size) for size in (3, 5, 7)),
                nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
            ]
        )
        self._out = nn.Sequential(conv(MEFC_EXPERTS * channels, channels, 1, False), nn.ReLU())

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        weighted = [
            weights[:, i, None, None, None] * expert(x) for i, expert in enumerate(self._ops)
        ]
        return self._out(torch.cat(weighted, dim=1))


class Preprocess(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Sequential(conv(channels, channels, 1, False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class MefcBody(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.preprocess = Preprocess(channels)
        self._ops = nn.ModuleList([MefcStep(channels) for _ in range(MEFC_STEPS)])

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        s = self.preprocess(x)
        for i, step in enumerate(self._ops):
            s = (step(s, weights[:, i]) + s).relu()
        return s


class MEFC(nn.Module):
    """Mixture-of-experts feature compensator."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.ModuleList([Gate(channels), MefcBody(channels)])

    def forward(self, x: Tensor) -> Tensor:
        gate, body = self.layers
        return body(x, gate(x))


class PatchEmbed(nn.Module):
    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.proj = conv(inputs, channels, 3, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Downsample(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels // 2, 3, False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Twice the size, half the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(conv(channels, 2 * channels, 3, False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class DRSformer(nn.Module):
    """Rainy image (B, C, H, W), H and W multiples of 8, to the restored one."""

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",
        use_mefc: bool = True,
    ):
        super().__init__()

        def level(index: int, channels: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    SparseTransformerBlock(
                        channels, heads[index], ffn_expansion_factor, bias, LayerNorm_type
                    )
                    for _ in range(num_blocks[index])
                )
            )

        self.patch_embed = PatchEmbed(inp_channels, dim)
        self.encoder_level0 = MEFC(dim) if use_mefc else nn.Identity()
        self.encoder_level1 = level(0, dim)
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = level(1, 2 * dim)
        self.down2_3 = Downsample(2 * dim)
        self.encoder_level3 = level(2, 4 * dim)
        self.down3_4 = Downsample(4 * dim)
        self.latent = level(3, 8 * dim)
        self.up4_3 = Upsample(8 * dim)
        self.reduce_chan_level3 = conv(8 * dim, 4 * dim, 1, bias)
        self.decoder_level3 = level(2, 4 * dim)
        self.up3_2 = Upsample(4 * dim)
        self.reduce_chan_level2 = conv(4 * dim, 2 * dim, 1, bias)
        self.decoder_level2 = level(1, 2 * dim)
        self.up2_1 = Upsample(2 * dim)
        self.decoder_level1 = level(0, 2 * dim)
        self.refinement = MEFC(2 * dim) if use_mefc else nn.Identity()
        self.output = conv(2 * dim, out_channels, 3, bias)

    def forward(self, image: Tensor) -> Tensor:
        e1 = self.encoder_level1(self.encoder_level0(self.patch_embed(image)))
        e2 = self.encoder_level2(self.down1_2(e1))
        e3 = self.encoder_level3(self.down2_3(e2))
        x = self.latent(self.down3_4(e3))
        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), e3], dim=1))
        x = self.decoder_level3(x)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), e2], dim=1))
        x = self.decoder_level2(x)
        x = self.decoder_level1(torch.cat([self.up2_1(x), e1], dim=1))
        return self.output(self.refinement(x)) + image


def network(config: Any) -> DRSformer:
    """A network of the architecture that a `DRSformerConfig` has, float32, freshly initialised."""
    return DRSformer(
        config.in_channels,
        config.out_channels,
        config.dim,
        config.num_blocks,
        config.heads,
        config.ffn_expansion_factor,
        config.bias,
        config.layer_norm_type,
        config.use_mefc,
    )
