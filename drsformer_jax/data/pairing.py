"""Which rainy file belongs to which clean one: by name, in every scheme that the data sets use.

| scheme | rainy | clean | seen in |
|---|---|---|---|
| same name | `7.jpg` | `7.png` | most sets as they are passed on |
| words taken off | `rain-7.png`, `norain-7x2.png` | `norain-7.png` | Rain100 and Rain200 at first |
| numbered versions | `901_1.jpg` ... `901_14.jpg` | `901.jpg` | DDN-Data |

Under the last one several rainy images share a clean one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Before and after what names the picture; longer words first.
_WORDS = "groundtruth|ground_truth|norain|rainy|rain|clean|input|target|gt"
_BEFORE = re.compile(rf"^(?:{_WORDS})(?=[^a-z])[-_ ]*", re.IGNORECASE)
# `x2`: the factor by which the rain of Rain100H and Rain200H was scaled.
_AFTER = re.compile(rf"(?:(?<=\d)x2|(?<=\d)(?:{_WORDS})|[-_ ]+(?:{_WORDS}))$", re.IGNORECASE)
_VERSION = re.compile(r"(?<=.)_\d+$")


@dataclass(frozen=True)
class NamedPair:
    """A rainy or restored file and its clean one; `name` is the first's, without suffix."""

    name: str
    input: Path
    target: Path


@dataclass(frozen=True)
class Pairing:
    """Two folders' files, put together.

    Attributes:
      scheme: by which names were compared.
      pairs: sorted by name.
      lone_inputs, lone_targets: files without a partner, sorted by name.
      ambiguous: one line for each file whose name, as the scheme reads it, another file has, too.
    """

    scheme: str
    pairs: tuple[NamedPair, ...]
    lone_inputs: tuple[Path, ...]
    lone_targets: tuple[Path, ...]
    ambiguous: tuple[str, ...]

    @property
    def faults(self) -> int:
        """How many files are left over."""
        return len(self.lone_inputs) + len(self.lone_targets) + len(self.ambiguous)


def pair_by_name(inputs: Iterable[Path], targets: Iterable[Path]) -> Pairing:
    """Pairs files by the first scheme under which all have partners, or else the best one."""
    inputs, targets = list(inputs), list(targets)
    found = (
        _pairing("same name", _name, _name, inputs, targets),
        _pairing("words taken off", _key, _key, inputs, targets),
        _pairing("numbered versions", _unnumbered, _name, inputs, targets, versions=True),
    )
    # Among equals the first.
    return min(found, key=lambda pairing: pairing.faults)


def _name(path: Path) -> str:
    return path.stem


def _key(path: Path) -> str:
    """`norain-007x2.png` -> `7`."""
    stem = _AFTER.sub("", _BEFORE.sub("", path.stem)) or path.stem
    return str(int(stem)) if stem.isdecimal() else stem


def _unnumbered(path: Path) -> str:
    """`901_14.jpg` -> `901`."""
    return _VERSION.sub("", path.stem)


def _pairing(
    scheme: str,
    input_key: Callable[[Path], str],
    target_key: Callable[[Path], str],
    inputs: Iterable[Path],
    targets: Iterable[Path],
    *,
    versions: bool = False,
) -> Pairing:
    ambiguous: list[str] = []
    by_key = _unique(targets, target_key, ambiguous)
    rainy = _unique(inputs, _name if versions else input_key, ambiguous)
    pairs, lone = [], []
    for path in rainy.values():
        target = by_key.get(input_key(path))
        if target is None:
            lone.append(path)
        else:
            pairs.append(NamedPair(path.stem, path, target))
    used = {pair.target for pair in pairs}
    lone_targets = [path for path in by_key.values() if path not in used]
    return Pairing(
        scheme,
        tuple(sorted(pairs, key=lambda pair: pair.name)),
        tuple(sorted(lone)),
        tuple(sorted(lone_targets)),
        tuple(ambiguous),
    )


def _unique(
    paths: Iterable[Path], key: Callable[[Path], str], ambiguous: list[str]
) -> Mapping[str, Path]:
    """Paths by key; all but the first of one key are noted."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        first = found.setdefault(key(path), path)
        if first is not path:
            same = "has the same name without suffix" if first.stem == path.stem else "pairs alike"
            ambiguous.append(f"{path}: {first.name} {same}")
    return found
