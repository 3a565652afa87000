"""Reads what XLA says of a program that a device's memory cannot hold."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"

# TPU's compiler gives up early ("the total memory required for HLO temporaries (20.31G) exceeds
# available HBM (15.75G)") or late ("Used 20.31G of 15.75G hbm"). Either counts everything: whatever
# the first is called, arguments and results that are no donated arguments are in it.
_NEEDED = re.compile(rf"\bHLO temporaries \({_SIZE}\)|\bUsed {_SIZE} of ")
_AVAILABLE = re.compile(rf"\bavailable HBM \({_SIZE}\)|\bUsed [\d.]+[KMGT]? of {_SIZE} hbm")


def is_out_of_memory(message: str) -> bool:
    """Whether a compiler's error says that the program does not fit the device."""
    return "RESOURCE_EXHAUSTED" in message or "Ran out of memory" in message


def bytes_needed(message: str) -> int | None:
    """What the program needs by that error, or None if it does not say."""
    return _bytes(_NEEDED.search(message))


def bytes_available(message: str) -> int | None:
    """What a program may have by that error, or None if it does not say."""
    return _bytes(_AVAILABLE.search(message))


def _bytes(found: re.Match[str] | None) -> int | None:
    if found is None:
        return None
    number, unit = (group for group in found.groups() if group is not None)
    return int(float(number) * _UNITS[unit])
