"""`drsformer score`: what derained images are worth, of one method or of several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.buckets import any_path, is_in_bucket
from drsformer_jax.cli.job_flags import add_job_arguments, is_job
from drsformer_jax.cli.reports import check_destination, images_below, write_report
from drsformer_jax.cli.score_job import niqe_model_of, score_in_job
from drsformer_jax.errors import UserError
from drsformer_jax.paths import local_path, nothing_at
from drsformer_jax.scores.protocols import PROTOCOLS

if TYPE_CHECKING:
    from drsformer_jax.data.pairing import NamedPair
    from drsformer_jax.evaluation.comparison import Comparison, Method
    from drsformer_jax.evaluation.scoring import ScoresOf

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
        type=any_path,
        help="write the means and every image's score as JSON; may be in a bucket (gs://)",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        type=any_path,
        help="write one row an image (and method) as CSV; likewise",
    )
    parser.add_argument(
        "--job",
        metavar="FOLDER",
        type=local_path,
        help="keep each score in FOLDER, and go on with those that are there",
    )
    add_job_arguments(parser, "FOLDER")
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
        raise nothing_at(targets)
    _check_files(args, [*(method.path for method in methods), targets, args.niqe_model])
    if is_job(args) and args.job is None:
        raise UserError("--shard, --engine: the scores need a folder to lie in: --job FOLDER")
    if args.shard and (args.json or args.csv):
        raise UserError(
            "--json, --csv: are for all scores: when all parts are done, give the command without "
            "--shard"
        )
    pairs = _paired(methods, targets)
    known = None
    if args.job is not None:
        code, known = score_in_job(methods, pairs, args)
        if args.shard or code > 1:
            return code
    _report(_compared(methods, pairs, known, args), args)
    return 0


def _check_files(args: argparse.Namespace, given: Sequence[Path | None]) -> None:
    """That --json and --csv can be written, and neither over an input nor over each other."""
    inputs = [path for path in given if path is not None]
    for flag, path in (("--json", args.json), ("--csv", args.csv)):
        check_destination(flag, path, images_below(inputs))
    if args.json and args.csv and _absolute(args.json) == _absolute(args.csv):
        raise UserError(f"--json and --csv both name {args.csv}: give each a file of its own")


def _absolute(path: Path) -> Path:
    return path if is_in_bucket(path) else path.resolve()


def _paired(methods: list[Method], targets: Path | None) -> list[list[NamedPair]]:
    from drsformer_jax.evaluation.methods import paired_with_targets, without_targets

    return without_targets(methods) if targets is None else paired_with_targets(methods, targets)


def _compared(
    methods: list[Method],
    pairs: list[list[NamedPair]],
    known: ScoresOf | None,
    args: argparse.Namespace,
) -> Comparison:
    """The scores of all methods, with a bar on the terminal."""
    from tqdm import tqdm

    from drsformer_jax.evaluation.scoring import compare_niqe, compare_with_targets

    # disable=None: no bar where stderr is no terminal.
    total = sum(map(len, pairs))
    with tqdm(total=total, unit="image", leave=False, disable=True if known else None) as bar:
        shown = {"on_image": bar.update, "scores_of": known}
        if args.no_reference:
            return compare_niqe(methods, pairs, niqe_model_of(args), **shown)
        return compare_with_targets(methods, pairs, args.protocol, **shown)


def _report(comparison: Comparison, args: argparse.Namespace) -> None:
    from drsformer_jax.evaluation.documents import comparison_document, comparison_rows
    from drsformer_jax.evaluation.text import comparison_text
    from drsformer_jax.files import write_json, write_rows

    def write_document(path: Path) -> None:
        write_json(path, comparison_document(comparison), ensure_ascii=False)

    print(comparison_text(comparison))
    write_report("--json", args.json, write_document)
    write_report("--csv", args.csv, lambda path: write_rows(path, comparison_rows(comparison)))
