"""`drsformer convert`: weights from one form into another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.errors import UserError

if TYPE_CHECKING:
    from drsformer_jax.checkpoints.weights import Weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer convert`."""
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="a PyTorch file (.pth, .pt), a .safetensors file, a checkpoint folder or a training "
        "workdir (its newest checkpoint)",
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        type=Path,
        help="what to write: NAME.pth or NAME.pt (PyTorch), NAME.safetensors, or NAME without a "
        "suffix (checkpoint folder)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace DST if it is there (never a foreign folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Converts and says what was converted. Returns 0 or raises UserError, nothing written."""
    from drsformer_jax.checkpoints.weights import load_weights, save_weights

    _check_destination(args.destination, args.force)
    weights = load_weights(args.source)
    save_weights(args.destination, weights)
    print(_report(args.source, args.destination, weights))
    return 0


def _check_destination(path: Path, force: bool) -> None:
    """Finds before the work what would make writing fail after it."""
    from drsformer_jax.checkpoints.pytorch import require_torch
    from drsformer_jax.checkpoints.weights import form_of

    form = form_of(path)
    if form == "pytorch":
        require_torch(f"writing {path}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}, make it first")
    if not path.exists():
        return
    if not force:
        raise UserError(f"{path} exists: give another name, or --force to replace it")
    if path.is_dir() and form != "directory":
        raise UserError(f"{path} is a folder: give a file name")
    if form == "directory":
        from drsformer_jax.checkpoints.orbax import is_checkpoint

        if not is_checkpoint(path):
            raise UserError(f"{path} exists and is not one of our checkpoints: give another name")


def _report(source: Path, destination: Path, weights: Weights) -> str:
    from drsformer_jax.checkpoints.names import from_tree

    config, metadata = weights.config, weights.metadata
    state = from_tree(weights.params, config)
    # The strings stay with the weights: those of an earlier conversion are not about this source.
    keys = ("container", "step", "parameters")
    fresh = metadata.get("source") == source.absolute().name
    origin = ", ".join(f"{key} {metadata[key]}" for key in keys if fresh and key in metadata)
    lines = [
        f"{source}" + (f" ({origin})" if origin else ""),
        f"  DRSformer: dim {config.dim}, blocks {_spaced(config.num_blocks)}, "
        f"heads {_spaced(config.heads)}, MSFN factor {config.ffn_expansion_factor:g}, "
        f"LayerNorm {config.layer_norm_type}, {'with' if config.bias else 'no'} biases, "
        f"{'with' if config.use_mefc else 'without'} MEFC",
        f"  {len(state)} tensors, {sum(array.size for array in state.values()):,} parameters",
    ]
    if "notes" in metadata:
        lines.append(f"  note: {metadata['notes']}")
    lines.append(f"-> {destination}")
    return "\n".join(lines)


def _spaced(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))
