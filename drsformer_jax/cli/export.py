"""`drsformer export`: the network and its weights as one file for other programs."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.checkpoints.hub import weights_argument
from drsformer_jax.cli.reports import check_destination
from drsformer_jax.errors import UserError, is_number, one_line
from drsformer_jax.paths import local_path

if TYPE_CHECKING:
    import numpy as np

_SIZE = re.compile(r"(\d+)x(\d+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the network with its weights as one file: .stablehlo, which jax.export reads, for "
        "CPUs, GPUs and TPUs, with a .json beside it that says what it is; or .onnx, for "
        "onnxruntime. The file is run and compared with our network before it gets its name. "
        "`drsformer derain` and Derainer.load take either as weights."
    )
    parser.add_argument(
        "weights",
        type=weights_argument,
        metavar="W",
        help="weights, as `drsformer derain` takes them",
    )
    parser.add_argument(
        "output", type=local_path, metavar="OUT", help="NAME.stablehlo or NAME.onnx"
    )
    parser.add_argument(
        "--size",
        default="dynamic",
        metavar="HxW",
        help="the only height and width that it takes, multiples of 8 (default: any)",
    )
    parser.add_argument(
        "--check",
        type=local_path,
        metavar="IMAGE",
        help="a photograph to compare it on, beside noise",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Exports; returns 0.

    Raises:
      UserError: a mistake in the arguments; what is needed is not installed; the file would not
        compute what the network does.
    """
    size = _size(args.size)
    _check_output(args.output, args.force)
    image = None if args.check is None else _photograph(args.check)
    if size and image is not None and image.shape[:2] != size:
        raise UserError(f"--check {args.check}: is not of --size {args.size} when padded")
    from drsformer_jax.checkpoints.weights import load_weights
    from drsformer_jax.exporting.checked import IMAGE, TOLERANCE, export_network

    weights = load_weights(args.weights)
    try:
        found = export_network(args.output, weights, size, image)
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written ({error.strerror or error})") from error
    bytes_written = args.output.stat().st_size
    print(one_line(f"{args.output}: {weights.config.summary()}, {bytes_written / 1e6:.1f} MB"))
    for tried, difference in found.items():
        print(f"  {tried}: differs from ours by {difference:.1e} at most ({TOLERANCE:.0e} allowed)")
    if found.get(IMAGE, 0) > TOLERANCE:
        print(
            f"  note: in {args.check} two logits of attention are so near to each other that "
            "rounding decides between them: another machine may decide otherwise, too"
        )
    return 0


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    found = _SIZE.fullmatch(text)
    sides = found.groups() if found else ()
    height, width = map(int, sides) if sides and all(map(is_number, sides)) else (0, 0)
    if not height or not width or height % 8 or width % 8:
        raise UserError(f"--size {text}: must be HxW, multiples of 8, or dynamic")
    return height, width


def _check_output(path: Path, force: bool) -> None:
    from drsformer_jax.checkpoints.contents import EXPORTED
    from drsformer_jax.inference.exported import description_of

    if path.suffix.lower() not in EXPORTED:
        raise UserError(f"{path}: end the name in {' or '.join(EXPORTED)}")
    for file in (path, description_of(path)):
        check_destination("OUT", file)
        if file.exists() and not force:
            raise UserError(f"{file} exists: give another name, or --force to replace it")


def _photograph(path: Path) -> np.ndarray:
    """float32 H W 3, padded to multiples of 8."""
    from drsformer_jax.data.images import read_rgb
    from drsformer_jax.inference.samples import as_unit
    from drsformer_jax.inference.tiles import pad_to_multiple

    return pad_to_multiple(as_unit(read_rgb(path)))
