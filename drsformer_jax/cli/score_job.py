"""`drsformer score` as a job: each score is a row of a ledger, and nothing else is written."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer_jax.cli.job_flags import do_job
from drsformer_jax.errors import UserError
from drsformer_jax.files import sha256
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.ledger import Ledgers
from drsformer_jax.jobs.units import Unit
from drsformer_jax.jobs.working import Worker

if TYPE_CHECKING:
    from drsformer_jax.data.pairing import NamedPair
    from drsformer_jax.evaluation.comparison import Method
    from drsformer_jax.evaluation.scoring import ScoresOf
    from drsformer_jax.scores.niqe_model import PristineModel


def niqe_model_of(args: argparse.Namespace) -> PristineModel:
    """The model that the flags name; UserError: it cannot be read."""
    from drsformer_jax.scores.niqe_model import load, packaged

    return packaged() if args.niqe_model is None else load(args.niqe_model)


def score_in_job(
    methods: Sequence[Method], pairs: Sequence[Sequence[NamedPair]], args: argparse.Namespace
) -> tuple[int, ScoresOf]:
    """Scores this process's share.

    Returns:
      The exit code, and what gives the scores of a pair, whoever has computed them.

    Raises:
      UserError: the folder is another job's, or cannot be written.
    """
    model = sha256(args.niqe_model) if args.niqe_model else None
    made_with = {
        **{"command": "drsformer score", "protocol": args.protocol},
        **{"no-reference": args.no_reference, "niqe-model": model},
        "methods": [[method.name, str(method.path)] for method in methods],
        "targets": sorted({str(pair.target.parent) for own in pairs for pair in own}),
    }
    folder = JobFolder(args.job)
    folder.begin(made_with, overwrite=args.overwrite, files=None)
    units = [
        Unit(
            f"{method.name}/{pair.name}", tuple(dict.fromkeys(map(str, (pair.input, pair.target))))
        )
        for method, own in zip(methods, pairs, strict=True)
        for pair in own
    ]
    make_worker = functools.partial(_worker, args.job, args.protocol, args.niqe_model)
    code = do_job(args, folder, units, make_worker, lambda row: None)
    ledgers = Ledgers(folder, with_results=True)
    by_sources = {unit.sources: unit for unit in units}
    fields = ("niqe",) if args.protocol is None else ("psnr", "ssim")

    def known(pair: NamedPair) -> dict[str, float]:
        unit = by_sources[tuple(dict.fromkeys(map(str, (pair.input, pair.target))))]
        if seen := ledgers.done(unit):
            try:
                return {field: float(seen.result[field]) for field in fields}
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{folder.ledgers}: what is noted of {unit.name} is damaged: remove "
                    f"{folder.path}, and all is scored anew"
                ) from None
        said = ledgers.seen.get(unit.name)
        raise UserError(said[-1].why if said else f"{pair.input}: is not scored yet")

    return code, known


def _worker(
    root: Path,
    protocol: str | None,
    niqe_model: Path | None,
    writer: str,
    stopped: Callable[[], int],
) -> Worker:
    """Makes a worker, in its process."""
    from drsformer_jax.data.pairing import NamedPair
    from drsformer_jax.evaluation.scoring import named_fault, niqe_of, scores_with_target

    folder = JobFolder(root)
    folder.open()
    if protocol is None:
        model = niqe_model_of(argparse.Namespace(niqe_model=niqe_model))
        scores_of: ScoresOf = functools.partial(niqe_of, model)
    else:
        scores_of = functools.partial(scores_with_target, protocol)

    def work(unit: Unit, worker: Worker) -> dict[str, Any]:
        del worker
        pair = NamedPair(unit.name, Path(unit.sources[0]), Path(unit.sources[-1]))
        scores = named_fault(scores_of, pair)
        # JSON has no infinity.
        return {name: x if math.isfinite(x) else str(x) for name, x in scores.items()}

    return Worker(work, folder, writer, "cpu", stopped)
