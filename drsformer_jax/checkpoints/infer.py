"""The architecture of a DRSformer: as a file describes it, or as its tensors show it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from drsformer_jax.checkpoints.torch_names import Shape
from drsformer_jax.errors import UserError, listing
from drsformer_jax.models.config import DRSformerConfig

_BLOCKS_AT_MOST = 1000

# Where a size is read, as (the tensors' names, what divides their first axis). All of them should
# tell the same one; the majority decides, so that a bad one among them is left to be listed.
_NORMS = r"\.\d+\.norm[12]\.body\.weight"
_DIM = (
    ("encoder_level1" + _NORMS, 1),
    ("(?:encoder_level2|decoder_level[12])" + _NORMS, 2),
    ("(?:en|de)coder_level3" + _NORMS, 4),
    ("latent" + _NORMS, 8),
)
# Of the widest level, which tells most of the factor: half as many channels have half as many.
_HIDDEN = (
    (r"latent\.\d+\.ffn\.(?:project_in|dwconv3x3|dwconv5x5)\.weight", 2),
    (r"latent\.\d+\.ffn\.dwconv(?:3x3|5x5)_1\.weight", 1),
)
_LEVELS = ("(?:en|de)coder_level1", "(?:en|de)coder_level2", "(?:en|de)coder_level3", "latent")


def config_from(architecture: Mapping[str, Any], source: str) -> DRSformerConfig:
    """The configuration a file describes.

    Raises:
      UserError: it describes none that can be built.
    """
    try:
        config = DRSformerConfig.from_architecture(architecture)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{source} describes a network that cannot be built: {error}") from error
    # The names of all tensors are made from the number of blocks: do not trust an absurd one.
    if max(config.num_blocks) > _BLOCKS_AT_MOST:
        raise UserError(
            f"{source} describes a network that cannot be built: num_blocks {config.num_blocks}, "
            f"more than {_BLOCKS_AT_MOST} in a level"
        )
    return config


def infer_config(shapes: Mapping[str, Shape], source: str = "the state_dict") -> DRSformerConfig:
    """The architecture that a state_dict's names and shapes describe.

    A few missing or misshapen tensors do not mislead it: they are left for `to_tree` to list.
    `ffn_expansion_factor` is 2.66 where that gives the hidden size found, else the factor of fewest
    digits that does.

    Raises:
      UserError: the tensors are not those of a DRSformer, or of one we cannot build.
    """
    _check_is_drsformer(shapes, source)
    depths = _depths(shapes, source)

    def size(places: Iterable[tuple[str, int]], default: int) -> int:
        votes = Counter(
            shape[0] // divisor
            for pattern, divisor in places
            for name, shape in shapes.items()
            if shape and shape[0] and not shape[0] % divisor and re.fullmatch(pattern, name)
        )
        return votes.most_common(1)[0][0] if votes else default

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in shapes)

    dim = size(_DIM, 48)
    hidden = size(_HIDDEN, 0)
    first_kernel = shapes.get("patch_embed.proj.weight", ())
    with_bias = 2 * count(r".+\.norm[12]\.body\.bias") > count(r".+\.norm[12]\.body\.weight")
    try:
        return DRSformerConfig(
            in_channels=first_kernel[1] if len(first_kernel) == 4 and first_kernel[1] else 3,
            out_channels=size([(r"output\.weight", 1)], 3),
            dim=dim,
            num_blocks=depths,
            heads=tuple(  # type: ignore[arg-type]
                size([(rf"{level}\.\d+\.attn\.temperature", 1)], 1) for level in _LEVELS
            ),
            ffn_expansion_factor=_expansion_factor(8 * dim, hidden) if hidden else 2.66,
            bias=2 * count(r".+\.attn\.qkv\.bias") > count(r".+\.attn\.qkv\.weight"),
            layer_norm_type="WithBias" if with_bias else "BiasFree",
            use_mefc=any(name.startswith(("encoder_level0.", "refinement.")) for name in shapes),
        )
    except ValueError as error:
        raise UserError(f"{source} describes a network that cannot be built: {error}") from error


def _check_is_drsformer(shapes: Mapping[str, Shape], source: str) -> None:
    blocks = [name for name in shapes if name.endswith(".attn.temperature")]
    branches = [name for name in shapes if re.search(r"\.\d+\.attn\.attn[1-4]$", name)]
    if branches:
        return
    if blocks:
        raise UserError(
            f"{source} is not a DRSformer: its attention blocks ({blocks[0]}, ...) have no branch "
            "weights attn1 to attn4; it looks like a Restormer, whose attention is dense"
        )
    raise UserError(
        f"{source} is not a DRSformer: none of its {len(shapes)} tensors is named like "
        f"latent.0.attn.attn1 (it holds {listing(list(shapes)[:3]) or 'nothing'}, ...)"
    )


def _depths(shapes: Mapping[str, Shape], source: str) -> tuple[int, int, int, int]:
    """Blocks of the four levels: the highest number found in the encoder or the decoder."""
    depths = [1, 1, 1, 1]
    for name in shapes:
        for level, pattern in enumerate(_LEVELS):
            if match := re.match(rf"{pattern}\.(\d{{1,9}})\.", name):
                depths[level] = max(depths[level], int(match[1]) + 1)
    # A file's numbers decide how much is enumerated here: do not trust an absurd one.
    if max(depths) > len(shapes):
        raise UserError(
            f"{source} is not a DRSformer: it numbers {max(depths)} blocks in a level but holds "
            f"{len(shapes)} tensors"
        )
    return depths[0], depths[1], depths[2], depths[3]


def _expansion_factor(channels: int, hidden: int) -> float:
    """The simplest factor with int(channels * factor) == hidden."""
    if int(channels * 2.66) == hidden:
        return 2.66
    for scale in (10**digits for digits in range(7)):
        # The first candidate of so many digits may be rounded to just below `hidden`.
        first = math.ceil(hidden * scale / channels)
        for factor in (first / scale, (first + 1) / scale):
            if int(channels * factor) == hidden:
                return factor
    return (hidden + 0.5) / channels
