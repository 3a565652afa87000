"""The one description of a DRSformer network, and the named ones."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any

from drsformer_jax.ops.execution import Execution, check_choice

LAYER_NORM_TYPES = ("WithBias", "BiasFree")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the network computes, as in the authors' options (CVPR 2023, section 3).

    in_channels, out_channels: channels of the image, 3 for RGB.
    dim: channels of level 1; level l has dim * 2**(l - 1).
    num_blocks: sparse Transformer blocks of levels 1, 2, 3 and the latent level.
    heads: attention heads of the same four levels.
    ffn_expansion_factor: hidden channels of MSFN are int(channels * factor).
    bias: biases in the convolutions that may have one.
    layer_norm_type: "WithBias", or "BiasFree" (the mean is not subtracted).
    use_mefc: the mixture-of-experts feature compensators at both ends.

    Raises:
      ValueError: an option is out of its range or does not fit another.
    """

    in_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    layer_norm_type: str = "WithBias"
    use_mefc: bool = True

    def __post_init__(self) -> None:
        for name in ("num_blocks", "heads"):
            given = getattr(self, name)
            try:
                values = tuple(operator.index(value) for value in given)
            except TypeError:  # no list, or one of something else
                values = ()
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} must be four positive integers, not {given!r}")
            object.__setattr__(self, name, values)
        for name in ("in_channels", "out_channels", "dim"):
            if not isinstance(getattr(self, name), numbers.Integral):
                raise ValueError(f"{name} must be a whole number, not {getattr(self, name)!r}")
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.dim % 2:
            raise ValueError(f"dim must be even (down-sampling halves it), not {self.dim}")
        if self.in_channels != self.out_channels:
            raise ValueError(
                f"in_channels ({self.in_channels}) and out_channels ({self.out_channels}) must be "
                "equal: the network adds its output to its input"
            )
        check_choice(self, "layer_norm_type", LAYER_NORM_TYPES)
        for name in ("bias", "use_mefc"):
            check_choice(self, name, (False, True))
        factor = self.ffn_expansion_factor
        if not isinstance(factor, numbers.Real) or not math.isfinite(factor):
            raise ValueError(f"ffn_expansion_factor must be a number, not {factor!r}")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % heads or channels // heads < 2:
                raise ValueError(
                    f"{heads} heads do not split {channels} channels into equal parts of at least 2"
                )
            if self.hidden_channels(channels) < 1:
                raise ValueError(f"ffn_expansion_factor {self.ffn_expansion_factor} is too small")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of levels 1, 2, 3 and the latent level."""
        return (self.dim, self.dim * 2, self.dim * 4, self.dim * 8)

    def hidden_channels(self, channels: int) -> int:
        """Hidden channels of the mixed-scale feed-forward network of a level."""
        return int(channels * self.ffn_expansion_factor)

    def summary(self) -> str:
        """The architecture in one line, for people."""

        def spaced(values: tuple[int, ...]) -> str:
            return " ".join(map(str, values))

        return (
            f"DRSformer: dim {self.dim}, blocks {spaced(self.num_blocks)}, "
            f"heads {spaced(self.heads)}, MSFN factor {self.ffn_expansion_factor:g}, "
            f"LayerNorm {self.layer_norm_type}, {'with' if self.bias else 'no'} biases, "
            f"{'with' if self.use_mefc else 'without'} MEFC"
        )

    def architecture(self) -> dict[str, Any]:
        """The architecture alone, as values that JSON knows."""
        values = {name: getattr(self, name) for name in ARCHITECTURE_FIELDS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


ARCHITECTURE_FIELDS = tuple(field.name for field in dataclasses.fields(Architecture))


@dataclasses.dataclass(frozen=True)
class DRSformerConfig(Execution, Architecture):
    """What the network is (`Architecture`) and how it is computed (`Execution`), in one value."""

    def __post_init__(self) -> None:
        Architecture.__post_init__(self)
        Execution.__post_init__(self)

    @property
    def execution(self) -> Execution:
        """How it is computed, alone."""
        names = [field.name for field in dataclasses.fields(Execution)]
        return Execution(**{name: getattr(self, name) for name in names})

    @classmethod
    def from_architecture(
        cls, architecture: Mapping[str, Any], **execution: Any
    ) -> DRSformerConfig:
        """The inverse of `architecture`, with execution options by keyword.

        Raises:
          ValueError: a field is unknown, a value out of range, or it is none that a file of ours
            has.
        """
        if not isinstance(architecture, Mapping):
            raise ValueError(f"an architecture is a group of values, not {architecture!r}")
        unknown = sorted(set(architecture) - set(ARCHITECTURE_FIELDS))
        if unknown:
            raise ValueError(f"unknown architecture fields: {', '.join(unknown)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in architecture.items()
        }
        return cls(**values, **execution)


PRESETS: dict[str, DRSformerConfig] = {
    # The paper's two variants: with MEFC for Rain200H, DID-Data, DDN-Data; without for
    # Rain200L and SPA-Data.
    "drsformer": DRSformerConfig(),
    "drsformer_no_mefc": DRSformerConfig(use_mefc=False),
    # Ours: the packaged default weights, and a network for demonstrations and tests.
    "small": DRSformerConfig(dim=16, num_blocks=(1, 1, 1, 1), heads=(1, 2, 4, 8), use_mefc=False),
    # Depth where pixels are few: 1.5 times the operations of "small".
    "compact": DRSformerConfig(dim=16, num_blocks=(1, 2, 3, 3), heads=(1, 2, 4, 8), use_mefc=False),
    # For films: a fifth of the operations of "compact", half as many channels.
    "xs": DRSformerConfig(
        dim=8,
        num_blocks=(1, 1, 2, 2),
        heads=(1, 2, 4, 4),
        ffn_expansion_factor=2.0,
        use_mefc=False,
    ),
    "tiny": DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 2, 2, 4), use_mefc=False),
}
