"""Averages trained weights of one network: runs side by side from the same start, each on its data.

    python tools/average_weights.py runs/a runs/b average.safetensors

A core each they take more patches a second than one run on all cores, and the average of what they
learn has less noise than either. It is worth something only where they have the same beginning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from drsformer_jax.checkpoints.weights import Weights, load_weights, save_weights
from drsformer_jax.errors import UserError


def averaged(weights: Sequence[Weights], names: Sequence[str]) -> Weights:
    """Weights whose every parameter is the mean of theirs, rounded once.

    Args:
      weights: at least one.
      names: of theirs, for messages and the result's metadata.

    Raises:
      UserError: one is of another network than the first.
    """
    first = weights[0]
    for name, other in zip(names[1:], weights[1:], strict=True):
        if other.config.architecture() != first.config.architecture():
            raise UserError(
                f"{name}: {other.config.summary()}, where {names[0]} has {first.config.summary()}"
            )

    def mean(*arrays: np.ndarray) -> np.ndarray:
        return np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)

    params = jax.tree.map(mean, *(each.params for each in weights))
    sources = ", ".join(Path(name).name for name in names)
    return Weights(first.config, params, {"source": f"the average of {sources}"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", nargs="+", help="whatever `drsformer derain --weights` takes")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    args = parser.parse_args()
    try:
        # Where OUT is forgotten, the last weights stand in its place.
        if args.out.exists():
            raise UserError(f"{args.out} exists: name another file to write, last of all")
        average = averaged([load_weights(name) for name in args.weights], args.weights)
        save_weights(args.out, average)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: the average of {len(args.weights)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
