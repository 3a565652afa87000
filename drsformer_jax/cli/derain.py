"""`drsformer derain`: rainy photographs in, derained ones out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING, BinaryIO

from drsformer_jax.buckets import check_writable, is_in_bucket
from drsformer_jax.cli.derain_flags import add_arguments as add_arguments
from drsformer_jax.cli.derain_jobs import STANDARD, Job, Naming, all_jobs
from drsformer_jax.cli.derain_progress import Tally, for_all_sizes
from drsformer_jax.cli.derain_work import restored, run_job
from drsformer_jax.cli.film import derain_films, open_films, plan_films
from drsformer_jax.cli.job_flags import is_job
from drsformer_jax.cli.output import require_stream
from drsformer_jax.cli.restoring import load_derainer
from drsformer_jax.errors import UserError, one_line
from drsformer_jax.inference.tiles import check_tiling
from drsformer_jax.jobs.ledger import FAILED
from drsformer_jax.jobs.units import Unit
from drsformer_jax.jobs.working import Worker

if TYPE_CHECKING:
    from drsformer_jax.film.restoring import FilmDerainer
    from drsformer_jax.inference.derainer import Derainer


def run(args: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 if an image failed.

    Raises:
      UserError: a mistake in the arguments, found before anything is written.
    """
    stdout = None
    if args.output is STANDARD:
        advice = "send the picture to a file or a program: > NAME"
        stdout = require_stream(sys.stdout, "-o -", advice)
    with open(os.devnull, "w") as nowhere:
        told = nowhere if args.quiet else sys.stderr if stdout else sys.stdout
        with contextlib.redirect_stdout(told):
            return _run(args, stdout)


def _run(args: argparse.Namespace, stdout: BinaryIO | None) -> int:
    check_tiling(args.tile, args.overlap)
    if any(given is STANDARD for given in args.inputs):
        require_stream(sys.stdin, "-", "pipe an image into it, or name a file")
    if args.compare and stdout is not None:
        raise UserError("--compare: the page lies beside the result: name a file or a folder (-o)")
    naming = Naming(args.ext, args.suffix, args.recursive, args.skip_existing, args.compare)
    # They are taken out of the inputs.
    films = plan_films(args, naming)
    jobs = all_jobs(args.inputs, args.output, naming) if args.inputs else ([], [])
    _check_quality(args.quality, jobs[0])
    # Of a single file there is nothing to go on with.
    is_folder = args.output not in {job.destination for some in (films, jobs) for job in some[0]}
    on_disk = not is_in_bucket(args.output)
    if is_job(args) and not on_disk:
        raise UserError(
            f"-o {args.output}: a job keeps its ledger beside its results, on a disk: name a "
            "folder that all parts see, and copy"
        )
    if is_job(args) or (args.skip_existing and is_folder and on_disk):
        return run_job(args, jobs, films, load_derainer)
    return _restore_all(jobs[0], *open_films(films[0], args), args, stdout)


def _restore_all(
    jobs: list[Job],
    films: list[FilmDerainer],
    refused: list[str],
    args: argparse.Namespace,
    stdout: BinaryIO | None,
) -> int:
    code = 0
    if jobs or films:
        derainer = load_derainer(args)
        if stdout is None:
            _make_folders(jobs)
        failures = _run_jobs(derainer, jobs, args, stdout)
        code = _told(failures)
        if failures:
            print(f"{len(failures)} of {len(jobs)} images failed", file=sys.stderr)
    if films:
        alone = len(films) + len(refused) == 1 and not jobs
        of_films, failed = derain_films(films, derainer, args, alone=alone)
        code, refused = max(code, of_films), refused + failed
    return max(code, _told(refused))


def _make_folders(jobs: list[Job]) -> None:
    """Makes the folders of the results; finds before the work that one cannot be written."""
    for folder in {job.destination.parent: None for job in jobs}:
        if is_in_bucket(folder):
            check_writable(folder)
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"-o {folder}: cannot be made ({error.strerror})") from error
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"-o {folder}: cannot be written ({error.strerror})") from error


def _told(failures: list[str]) -> int:
    """Tells what failed; 1 if anything did."""
    for message in failures:
        print(f"error: {one_line(message)}", file=sys.stderr)
    return 1 if failures else 0


def _check_quality(quality: int | None, jobs: list[Job]) -> None:
    if quality is None:
        return
    if not 1 <= quality <= 100:
        raise UserError(f"--quality {quality}: is not from 1 to 100")
    if jobs and all(job.form.is_lossless for job in jobs):
        raise UserError("--quality: png and tiff keep all; it is for --ext jpg, webp and avif")


def _run_jobs(
    derainer: Derainer, jobs: list[Job], args: argparse.Namespace, stdout: BinaryIO | None
) -> list[str]:
    """Restores all images, a line each; returns one message for each that failed."""
    import tqdm

    failures = []
    tally = Tally(len(jobs))
    derainer = for_all_sizes(derainer, [job.source for job in jobs], args.tile, args.overlap)
    by_name = {str(number): job for number, job in enumerate(jobs)}

    def work(unit: Unit, worker: Worker) -> dict[str, int]:
        del worker
        height, width = restored(derainer, by_name[unit.name], args, stdout)
        return {"height": height, "width": width}

    units = [Unit(name, (str(job.source),)) for name, job in by_name.items()]
    # disable=None: a bar on terminals only, and none for a single image.
    disable = True if args.quiet or len(jobs) == 1 else None
    with tally.watching(), Worker(work) as worker:
        for row in tqdm.tqdm(worker.run(units), unit="image", total=len(jobs), disable=disable):
            if row["status"] == FAILED:
                failures.append(row["why"])
                continue
            height, width = row["result"]["height"], row["result"]["width"]
            tally.restored(height, width)
            path = by_name[row["id"]].destination
            tqdm.tqdm.write(f"{one_line(path)}  {width} x {height}  {row['seconds']:.1f} s")
    if len(jobs) > 1:
        print(tally.summary(len(failures)))
    return failures
