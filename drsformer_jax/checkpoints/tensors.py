"""Tensors in a file of weights, which are read when they are wanted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from drsformer_jax.checkpoints.torch_names import Shape


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `numpy.asarray` reads it, as float32.

    shape: as in the file; precision: the dtype there, by its name in NumPy and PyTorch; read:
    gives the values, in that dtype or in float32. The array may be a view of the mapped file.
    """

    shape: Shape
    precision: str
    read: Callable[[], np.ndarray]
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # A float64 value beyond float32 becomes infinite, which `check_finite` reports.
        with np.errstate(over="ignore"):
            return np.array(self.read(), dtype=dtype or self.dtype, copy=copy)


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """What a file of weights holds.

    tensors: by the network's own names, yet to be read; metadata: free strings, kept with the
    weights; notes: what else is to be said of this reading; architecture: in files of ours.
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    notes: tuple[str, ...]
    architecture: Mapping[str, Any] | None = None


def precision_note(precisions: Iterable[str]) -> str | None:
    """What to tell of a conversion to float32 from these dtypes; None if there was none."""
    counts = Counter(precision for precision in precisions if precision != "float32")
    if not counts:
        return None
    return " and ".join(
        f"{number} tensor{'s' if number > 1 else ''} of {precision} "
        + (
            "rounded to float32, which loses digits"
            if precision == "float64"
            else "converted to float32, exactly"
        )
        for precision, number in counts.items()
    )
