"""`drsformer explain`: what the network looks at in one photograph, as one figure."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from drsformer_jax.checkpoints.hub import name_of, weights_argument
from drsformer_jax.cli.reports import check_destination, weights_read, write_report
from drsformer_jax.errors import UserError, missing_extra, one_line
from drsformer_jax.files import write_json
from drsformer_jax.paths import local_path

SUFFIXES = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw what the network does with one photograph: the layer that it takes out, what its "
        "top-k masks keep, the learned weights of their branches and the temperatures, and the "
        "weights of the experts where it has some. The photograph is restored whole."
    )
    parser.add_argument("image", type=local_path, metavar="IMAGE", help="a photograph")
    parser.add_argument(
        "-o",
        "--output",
        type=local_path,
        metavar="FIG",
        help="the figure to write, .png, .pdf or .svg (default: NAME.explained.png, here)",
    )
    parser.add_argument(
        "--weights",
        type=weights_argument,
        metavar="W",
        help="as for `drsformer derain` (default: those that come with the package)",
    )
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="writes the numbers as JSON, too"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the figure; returns 0."""
    output = args.output or Path(f"{args.image.stem}.explained.png")
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"-o {output}: name a file that ends in {', '.join(SUFFIXES)}")
    inputs = [args.image, *weights_read(args.weights or "")]
    check_destination("-o", output, inputs)
    check_destination("--json", args.json, inputs)
    if args.json and args.json.resolve() == output.resolve():
        raise UserError(f"-o and --json both name {output}: give each a file of its own")
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "explain", "drawing a figure")

    from drsformer_jax.checkpoints.catalogue import default_weights
    from drsformer_jax.checkpoints.weights import load_weights
    from drsformer_jax.cli.devices import check_devices
    from drsformer_jax.data.images import read_rgb
    from drsformer_jax.evaluation.explanation import explain
    from drsformer_jax.evaluation.explanation_figure import write_figure
    from drsformer_jax.inference.samples import as_unit

    check_devices()
    image = read_rgb(args.image)
    given = args.weights or default_weights()
    named = name_of(given)
    weights = load_weights(given)
    if weights.config.in_channels != 3:
        raise UserError(
            f"{args.weights}: weights for images of {weights.config.in_channels} channels"
        )
    try:
        found = explain(weights.config, weights.params, as_unit(image))
    except FloatingPointError as error:
        raise UserError(f"{args.image}: {error}") from error
    title = f"{args.image.name}, weights {named}\n{weights.config.summary()}"
    write_report("-o", output, lambda path: write_figure(path, title, image, found))
    document = {
        "image": args.image.name,
        "weights": named,
        "architecture": weights.config.architecture(),
    }
    write_report("--json", args.json, lambda path: write_json(path, document | found.document()))
    print(one_line(output))
    return 0
