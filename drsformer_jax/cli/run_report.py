"""`drsformer report`: the page of a training run, written anew from its workdir."""

from __future__ import annotations

import argparse

from drsformer_jax.buckets import any_path
from drsformer_jax.cli.reports import check_destination
from drsformer_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the page that train.py writes when it ends: curves, scores, pictures, starts and "
        "ends, environment and configuration of a training run in one HTML file that needs no "
        "network. The run may be over, stopped, killed or at work."
    )
    parser.add_argument("workdir", type=any_path, metavar="WORKDIR", help="of train.py")
    parser.add_argument(
        "-o",
        "--output",
        type=any_path,
        metavar="FILE",
        help="the file to write (default: WORKDIR/report.html)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page; returns 0."""
    from drsformer_jax.training.run_report import REPORT, write_run_report

    if args.output:
        inputs = [] if args.output.name == REPORT else [args.workdir]
        check_destination("-o", args.output, inputs)
    try:
        print(write_run_report(args.workdir, args.output))
    except OSError as error:
        place = error.filename or args.output or args.workdir
        raise UserError(
            f"{place}: cannot be read or written ({error.strerror or error})"
        ) from error
    return 0
