"""`drsformer parity`: our network against a PyTorch program, module by module."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.checkpoints.hub import weights_argument
from drsformer_jax.cli.devices import check_devices
from drsformer_jax.cli.reports import check_destination, weights_read, write_report
from drsformer_jax.errors import UserError, is_number
from drsformer_jax.paths import local_path

if TYPE_CHECKING:
    import numpy as np

    from drsformer_jax.checkpoints.weights import Weights

EXIT_BEYOND = 1
RANDOM = "random:"
DEFAULT_PRESET = "drsformer"

_EPILOG = """\
Both networks get the same weights and the same image and compute at full precision. A module is
within tolerance if its largest absolute difference, divided by the reference's largest absolute
value, and its relative L2 difference are. Exit code 0: everything is; 1: something is not, and the
first such module is named; 2: it could not be compared.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer parity`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--weights",
        metavar="W",
        type=_weights_argument,
        required=True,
        help="a PyTorch or safetensors file, a checkpoint, a training workdir, or random:SEED: "
        "weights of which none has its initial value",
    )
    parser.add_argument(
        "--preset",
        help=f"the network of random weights: drsformer, drsformer_no_mefc (the paper's), small "
        f"or tiny; default {DEFAULT_PRESET}",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE.py:CLASS",
        type=lambda text: str(local_path(text)),
        help="a PyTorch class with the authors' tensor names, such as their own; the file is "
        "executed. Default: the PyTorch module that comes with this package",
    )
    parser.add_argument(
        "--image",
        metavar="PNG",
        type=local_path,
        help="a photograph, reflected at the border up to multiples of 8; default: a built-in "
        "picture of 64x64 pixels",
    )
    parser.add_argument(
        "--gradients", action="store_true", help="compare the gradient of every parameter, too"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument(
        "--tolerance", type=float, help="relative; default 1e-5 for float32, 1e-11 for float64"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=local_path, help="write the whole comparison to FILE"
    )


def run(args: argparse.Namespace) -> int:
    """Compares, prints the report and returns 0 (all within tolerance) or 1."""
    from drsformer_jax.checkpoints.pytorch_file import require_torch
    from drsformer_jax.files import write_json
    from drsformer_jax.parity.comparison import TOLERANCES
    from drsformer_jax.parity.run import compare_with_pytorch

    check_destination("--json", args.json, _inputs(args))
    tolerance = TOLERANCES[args.dtype] if args.tolerance is None else args.tolerance
    if not tolerance > 0:
        raise UserError(f"--tolerance must be positive, not {tolerance:g}")
    require_torch("running the reference")
    check_devices()
    weights = _weights(args.weights, args.preset)
    image = _image(args.image, weights)
    report = compare_with_pytorch(
        weights,
        image,
        dtype=args.dtype,
        tolerance=tolerance,
        reference=args.reference,
        gradients=args.gradients,
        settings=_settings(args, weights, image, tolerance),
        say=_say,
    )
    print(report.text())
    write_report("--json", args.json, lambda path: write_json(path, report.to_json()))
    return 0 if report.passed else EXIT_BEYOND


def _weights_argument(text: str) -> str:
    return text if text.startswith(RANDOM) else str(weights_argument(text))


def _inputs(args: argparse.Namespace) -> Iterator[Path]:
    """What is read."""
    yield from weights_read(Path(args.weights))
    if args.reference is not None:
        yield Path(args.reference.rpartition(":")[0])
    if args.image is not None:
        yield args.image


def _weights(source: str, preset: str | None) -> Weights:
    from drsformer_jax.checkpoints.weights import load_weights
    from drsformer_jax.models.config import PRESETS
    from drsformer_jax.parity.random_weights import random_weights

    if not source.startswith(RANDOM):
        if preset is not None:
            raise UserError("--preset goes with --weights random:SEED: a file tells its network")
        weights = load_weights(source)
        for note in weights.notes:
            print(f"{source}: {note}", file=sys.stderr)
        return weights
    seed = source.removeprefix(RANDOM)
    if not (seed.isascii() and is_number(seed)):
        raise UserError(f"--weights {source}: the seed must be a whole number, as in random:0")
    preset = preset or DEFAULT_PRESET
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: is not one of {', '.join(PRESETS)}")
    return random_weights(PRESETS[preset], int(seed))


def _image(path: Path | None, weights: Weights) -> np.ndarray:
    """float64 H W C in [0, 1], of a size that the network takes."""
    from drsformer_jax.data.images import read_rgb
    from drsformer_jax.inference.tiles import pad_to_multiple
    from drsformer_jax.parity.images import built_in_image

    channels = weights.config.in_channels
    if path is None:
        return built_in_image(channels)
    if channels != 3:
        raise UserError(f"--image {path}: the network takes {channels} channels, not RGB")
    return pad_to_multiple(read_rgb(path) / 255)


def _settings(
    args: argparse.Namespace, weights: Weights, image: np.ndarray, tolerance: float
) -> dict[str, str]:
    import jax
    import torch

    parameters = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    reference = args.reference or "the PyTorch module of this package"
    height, width = image.shape[:2]
    return {
        "network": f"{weights.config.summary()}; {parameters:,} parameters",
        "weights": str(args.weights),
        "reference": f"{reference}; PyTorch {torch.__version__} on CPU",
        "ours": f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, precision highest",
        "image": f"{height}x{width}, {args.image or 'built in'}",
        "dtype": args.dtype,
        "tolerance": f"{tolerance:g}, relative to the reference: of the largest absolute value, "
        "and L2",
    }


def _say(text: str) -> None:
    """Progress, where somebody is watching."""
    if sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)
