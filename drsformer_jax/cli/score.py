"""`drsformer score`: what derained images are worth, of one method or of several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.cli.reports import check_destination, images_below, write_report
from drsformer_jax.errors import UserError
from drsformer_jax.paths import local_path
from drsformer_jax.scores.protocols import PROTOCOLS

if TYPE_CHECKING:
    from drsformer_jax.evaluation.comparison import Comparison
    from drsformer_jax.evaluation.methods import Method
    from drsformer_jax.evaluation.pairing import FilePair

USAGE = """drsformer score RESULTS TARGETS --protocol PROTOCOL [--json FILE] [--csv FILE]
       drsformer score [NAME=]RESULTS [NAME=]RESULTS ... TARGETS --protocol PROTOCOL
       drsformer score [NAME=]RESULTS ... --no-reference niqe [--niqe-model FILE]"""

NO_REFERENCE = ("niqe",)

SEVERAL = (
    "Several methods: one row each, with 95 % confidence intervals of the means (BCa bootstrap "
    "over images, fixed seed), and each compared with the first one, image by image: mean "
    "difference, its interval, and p of a two-sided sign-flip permutation test, which tests the "
    "mean that is shown, assumes no normal distribution and is exact. Six images are the fewest "
    "for either."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer score`."""
    protocols = "; ".join(
        f"{protocol.name}: {protocol.used_for} ({protocol.luminance})"
        for protocol in PROTOCOLS.values()
    )
    parser.usage = USAGE
    parser.epilog = (
        f"Protocols. {protocols}. {SEVERAL} NIQE (Mittal et al., 2013) needs no targets and is "
        "better when lower; its model of clean photographs is this project's own."
    )
    parser.add_argument(
        "paths",
        metavar="RESULTS ... TARGETS",
        nargs="+",
        help="folders of derained images, one a method (NAME=FOLDER says what to call it), and "
        "last the folder of clean images of the same names; or single images; there are no TARGETS "
        "with --no-reference",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="the formula: scores compare only within one protocol",
    )
    kind.add_argument(
        "--no-reference",
        choices=NO_REFERENCE,
        help="a score of photographs that have no target, instead of a protocol",
    )
    parser.add_argument(
        "--niqe-model",
        metavar="FILE",
        type=local_path,
        help="pristine model of NIQE, as tools/estimate_niqe_model.py writes it (default: the one "
        "that comes with the package)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=local_path,
        help="write the means and every image's score as JSON",
    )
    parser.add_argument(
        "--csv", metavar="FILE", type=local_path, help="write one row an image (and method) as CSV"
    )
    # argparse gives the first run of paths to `paths` and leaves those behind a flag over.
    parser.set_defaults(takes_changes=True)


def run(args: argparse.Namespace) -> int:
    """Scores, prints the table and writes the files asked for. Returns 0 or raises UserError."""
    paths = [*args.paths, *args.changes]
    unknown = [word for word in args.changes if word.startswith("-")]
    if unknown:
        raise UserError(f"unrecognized arguments: {' '.join(unknown)}")
    if args.no_reference is None and args.niqe_model:
        raise UserError("--niqe-model goes with --no-reference niqe, not with --protocol")
    if args.no_reference is None and len(paths) < 2:
        raise UserError(
            f"RESULTS and TARGETS are needed, but only {paths[0]} is given: add the folder of "
            "clean images, or take --no-reference niqe instead of --protocol"
        )
    from drsformer_jax.evaluation.methods import named_methods

    targets = None if args.no_reference else local_path(paths.pop())
    methods = named_methods(paths)
    if targets is not None and not targets.exists():
        raise UserError(f"{targets}: no such file or folder")
    _check_files(args, [*(method.path for method in methods), targets, args.niqe_model])
    if targets is None:
        _report(_without_targets(methods, args.niqe_model), args)
    elif len(methods) == 1:
        _one_method(methods[0].path, targets, args)
    else:
        _report(_with_targets(methods, targets, args.protocol), args)
    return 0


def _check_files(args: argparse.Namespace, given: Sequence[Path | None]) -> None:
    """That --json and --csv can be written, and neither over an input nor over each other."""
    inputs = [path for path in given if path is not None]
    for flag, path in (("--json", args.json), ("--csv", args.csv)):
        check_destination(flag, path, images_below(inputs))
    if args.json and args.csv and args.json.resolve() == args.csv.resolve():
        raise UserError(f"--json and --csv both name {args.csv}: give each a file of its own")


def _one_method(results: Path, targets: Path, args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from drsformer_jax.evaluation.comparison_report import interval_line
    from drsformer_jax.evaluation.dataset import score_pairs
    from drsformer_jax.evaluation.report import format_table, write_csv, write_json

    pairs = _pairs(results, targets)
    # disable=None: no bar where stderr is no terminal.
    with tqdm(total=len(pairs), unit="image", leave=False, disable=None) as bar:
        score = score_pairs(pairs, args.protocol, on_image=lambda _: bar.update())
    print(format_table(score))
    print(interval_line(score))
    write_report("--json", args.json, lambda path: write_json(path, score))
    write_report("--csv", args.csv, lambda path: write_csv(path, score))


def _pairs(results: Path, targets: Path) -> list[FilePair]:
    """The pairs of two folders, or of two files, whose names are then free."""
    from drsformer_jax.evaluation.pairing import FilePair, pair_folders

    if results.is_dir() != targets.is_dir():
        raise UserError(
            f"RESULTS and TARGETS must be two folders or two images, but one of {results} and "
            f"{targets} is a folder and the other a file"
        )
    if results.is_dir():
        return pair_folders(results, targets)
    return [FilePair(results.stem, results, targets)]


def _with_targets(methods: list[Method], targets: Path, protocol: str) -> Comparison:
    from tqdm import tqdm

    from drsformer_jax.evaluation.comparison import compare_with_targets
    from drsformer_jax.evaluation.methods import paired_with_targets

    pairs = paired_with_targets(methods, targets)
    with tqdm(total=sum(map(len, pairs)), unit="image", leave=False, disable=None) as bar:
        return compare_with_targets(methods, pairs, protocol, on_image=lambda _: bar.update())


def _without_targets(methods: list[Method], model_file: Path | None) -> Comparison:
    from tqdm import tqdm

    from drsformer_jax.evaluation.comparison import compare_niqe
    from drsformer_jax.evaluation.methods import without_targets
    from drsformer_jax.scores.niqe_model import load, packaged

    model = packaged() if model_file is None else load(model_file)
    pairs = without_targets(methods)
    with tqdm(total=sum(map(len, pairs)), unit="image", leave=False, disable=None) as bar:
        return compare_niqe(methods, pairs, model, on_image=lambda _: bar.update())


def _report(comparison: Comparison, args: argparse.Namespace) -> None:
    from drsformer_jax.evaluation.comparison_files import (
        write_comparison_csv,
        write_comparison_json,
    )
    from drsformer_jax.evaluation.comparison_report import format_comparison

    print(format_comparison(comparison))
    write_report("--json", args.json, lambda path: write_comparison_json(path, comparison))
    write_report("--csv", args.csv, lambda path: write_comparison_csv(path, comparison))
