"""Gives trained weights more blocks, which begin as the identity: a longer run starts from them.

    python tools/deepen_weights.py rain_small deeper.safetensors --blocks 1 2 3 3

The network computes what it did before. What is new is drawn as for a new run, but for the last
products of attention and of the feed-forward network, which are zero.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from drsformer_jax.checkpoints.weights import Weights, load_weights, save_weights
from drsformer_jax.cli.reports import check_destination, weights_read
from drsformer_jax.errors import UserError
from drsformer_jax.models.drsformer import init_params
from drsformer_jax.training.config import LARGEST_SEED
from drsformer_jax.training.state import seed_key


def deepened(weights: Weights, num_blocks: tuple[int, int, int, int], seed: int = 0) -> Weights:
    """The same function by a network with so many blocks a level.

    Raises:
      UserError: a level would have fewer than it has.
    """
    there = weights.config.num_blocks
    if any(new < old for new, old in zip(num_blocks, there, strict=True)):
        asked, has = (" ".join(map(str, blocks)) for blocks in (num_blocks, there))
        raise UserError(f"--blocks {asked}: the network has {has}, and none can be taken away")
    config = dataclasses.replace(weights.config, num_blocks=num_blocks)

    def extended(path: tuple[Any, ...], new: jax.Array, old: np.ndarray) -> np.ndarray:
        array = np.array(new)
        if array.shape == old.shape:
            return old
        if any(key.key == "project_out" for key in path):
            array[:] = 0
        array[: len(old)] = old  # blocks of a level are stacked
        return array

    fresh = init_params(config, seed_key(seed))
    params = jax.tree_util.tree_map_with_path(extended, fresh, weights.params)
    return dataclasses.replace(weights, config=config, params=params)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", help="whatever `drsformer derain --weights` takes")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument("--blocks", type=int, nargs=4, required=True, help="of the four levels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        check_destination("OUT", args.out, weights_read(Path(args.weights)))
        if not 0 <= args.seed <= LARGEST_SEED:
            raise UserError(f"--seed {args.seed}: must be 0 to {LARGEST_SEED}")
        deeper = deepened(load_weights(args.weights), (*args.blocks,), args.seed)
        save_weights(args.out, deeper)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = sum(leaf.size for leaf in jax.tree.leaves(deeper.params))
    print(f"{args.out}: {count:,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
