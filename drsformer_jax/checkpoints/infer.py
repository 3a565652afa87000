"""The architecture of a DRSformer, read from the names and shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from drsformer_jax.checkpoints.names import Shape, listing
from drsformer_jax.checkpoints.rules import MODULES, SYMBOLIC_SIZE, Rule, rules_of
from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig


def infer_config(shapes: Mapping[str, Shape], source: str = "the state_dict") -> DRSformerConfig:
    """The architecture that a state_dict's names and shapes describe.

    Every tensor votes for the sizes that appear in its shape and the majority decides, so that a
    few missing or misshapen tensors are left for `to_tree` to list. `ffn_expansion_factor` is 2.66
    where that gives the hidden sizes found, else the factor of fewest digits that does.

    Raises:
      UserError: the tensors are not those of a DRSformer, or of one we cannot build.
    """
    _check_is_drsformer(shapes, source)
    depths = _depths(shapes, source)
    votes: dict[str, Counter[int]] = {}
    present: dict[str, list[bool]] = {"bias": [], "WithBias": []}
    hidden: dict[int, Counter[int]] = {}
    for module in MODULES:
        for rule, name, _, _ in rules_of(module, depths[module.level]):
            if rule.option is not None:
                present[rule.option].append(name in shapes)
            for symbol, value in _read_sizes(rule, shapes.get(name, ())):
                if symbol == "C" and value % module.width == 0:
                    votes.setdefault("dim", Counter())[value // module.width] += 1
                elif symbol == "H":
                    hidden.setdefault(module.width, Counter())[value] += 1
                elif symbol == "h":
                    votes.setdefault(f"heads{module.level}", Counter())[value] += 1
                elif symbol in "IO":
                    votes.setdefault(symbol, Counter())[value] += 1

    def majority(key: str, default: int) -> int:
        return votes[key].most_common(1)[0][0] if votes.get(key) else default

    def mostly(option: str) -> bool:
        return 2 * sum(present[option]) > len(present[option])

    dim = majority("dim", 48)
    try:
        return DRSformerConfig(
            in_channels=majority("I", 3),
            out_channels=majority("O", 3),
            dim=dim,
            num_blocks=depths,
            heads=tuple(majority(f"heads{level}", 1) for level in range(4)),  # type: ignore[arg-type]
            ffn_expansion_factor=_expansion_factor(
                {dim * width: count.most_common(1)[0][0] for width, count in hidden.items()}
            ),
            bias=mostly("bias"),
            layer_norm_type="WithBias" if mostly("WithBias") else "BiasFree",
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
    levels = {module.name: module.level for module in MODULES if module.kind == "blocks"}
    for name in shapes:
        match = re.match(r"(\w+)\.(\d{1,9})\.", name)
        if match and match[1] in levels:
            level = levels[match[1]]
            depths[level] = max(depths[level], int(match[2]) + 1)
    # A file's numbers decide how much is enumerated here: do not trust an absurd one.
    if max(depths) > len(shapes):
        raise UserError(
            f"{source} is not a DRSformer: it numbers {max(depths)} blocks in a level but holds "
            f"{len(shapes)} tensors"
        )
    return depths[0], depths[1], depths[2], depths[3]


def _read_sizes(rule: Rule, shape: Shape) -> Iterator[tuple[str, int]]:
    """(symbol, value) for each symbol in the rule's shape, as a tensor's actual shape has it."""
    symbols = rule.shape.split()
    if len(symbols) != len(shape):
        return
    for size, found in zip(symbols, shape, strict=True):
        symbolic = SYMBOLIC_SIZE.fullmatch(size)
        if symbolic is not None:
            factor, symbol, half = symbolic.groups()
            value, rest = divmod(found * (2 if half else 1), int(factor or 1))
            if value > 0 and not rest:
                yield symbol, value


def _expansion_factor(hidden: Mapping[int, int]) -> float:
    """The simplest factor with int(channels * factor) == hidden for all {channels: hidden}."""

    def fits(factor: float) -> bool:
        return all(int(channels * factor) == size for channels, size in hidden.items())

    if not hidden or fits(2.66):
        return 2.66
    widest = max(hidden)
    for digits in range(7):
        # Candidates of so many digits in the interval that the widest level leaves open.
        scale = 10**digits
        first = math.ceil(hidden[widest] * scale / widest)
        last = math.floor((hidden[widest] + 1) * scale / widest)
        for numerator in range(first, min(last, first + 1000) + 1):
            if fits(numerator / scale):
                return numerator / scale
    # The levels contradict each other: follow the widest, and let the others be listed.
    return (hidden[widest] + 0.5) / widest
