"""What every reader of foreign tensors does before they are mapped: prefix, precision, sanity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from drsformer_jax.checkpoints.names import listing
from drsformer_jax.errors import UserError

# What torch.nn.DataParallel puts in front of every name.
PREFIX = "module."

T = TypeVar("T")


def strip_prefix(state: Mapping[str, T], source: str) -> dict[str, T]:
    """The state without `module.` in front of its names.

    Raises:
      UserError: a tensor is there with and without the prefix.
    """
    stripped = {name.removeprefix(PREFIX): value for name, value in state.items()}
    if len(stripped) < len(state):
        twice = [name for name in state if PREFIX + name in state]
        raise UserError(f"{source} holds tensors with and without '{PREFIX}': {listing(twice)}")
    return stripped


def precision_note(dtypes: Iterable[str]) -> str | None:
    """What to tell of a conversion to float32 from these dtypes; None if there was none."""
    counts = Counter(dtype for dtype in dtypes if dtype != "float32")
    if not counts:
        return None
    kinds = " and ".join(f"{number} tensors of {dtype}" for dtype, number in counts.items())
    return f"{kinds} converted to float32"


def check_finite(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Raises a UserError that names the tensors with NaN or infinite values, if there are any."""
    bad = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{source} has NaN or infinite values in {listing(bad)}")
