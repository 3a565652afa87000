"""`drsformer score`: PSNR and SSIM of derained images against their targets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.protocols import PROTOCOLS

if TYPE_CHECKING:
    from drsformer_jax.evaluation.pairing import FilePair


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer score`."""
    protocols = "; ".join(
        f"{protocol.name}: {protocol.used_for} ({protocol.luminance})"
        for protocol in PROTOCOLS.values()
    )
    parser.epilog = f"Protocols. {protocols}."
    parser.add_argument(
        "results", metavar="RESULTS", type=Path, help="folder of derained images, or one image"
    )
    parser.add_argument(
        "targets",
        metavar="TARGETS",
        type=Path,
        help="folder of clean images of the same names, or one image",
    )
    parser.add_argument(
        "--protocol",
        required=True,
        choices=list(PROTOCOLS),
        help="the formula: scores compare only within one protocol",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the mean and every image's score as JSON"
    )
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write one row an image as CSV")


def run(args: argparse.Namespace) -> int:
    """Scores, prints the table and writes the files asked for. Returns 0 or raises UserError."""
    from tqdm import tqdm

    from drsformer_jax.evaluation.dataset import score_pairs
    from drsformer_jax.evaluation.report import format_table, write_csv, write_json

    for flag, path in (("--json", args.json), ("--csv", args.csv)):
        check_destination(flag, path)
    pairs = _pairs(args.results, args.targets)
    # disable=None: no bar where stderr is no terminal.
    with tqdm(total=len(pairs), unit="image", leave=False, disable=None) as bar:
        score = score_pairs(pairs, args.protocol, on_image=lambda _: bar.update())
    print(format_table(score))
    write_report("--json", args.json, lambda path: write_json(path, score))
    write_report("--csv", args.csv, lambda path: write_csv(path, score))
    return 0


def _pairs(results: Path, targets: Path) -> list[FilePair]:
    """The pairs of two folders, or of two files, whose names are then free."""
    from drsformer_jax.evaluation.pairing import FilePair, pair_folders

    for path in (results, targets):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    if results.is_dir() != targets.is_dir():
        raise UserError(
            f"RESULTS and TARGETS must be two folders or two images, but one of {results} and "
            f"{targets} is a folder and the other a file"
        )
    if results.is_dir():
        return pair_folders(results, targets)
    return [FilePair(results.stem, results, targets)]
