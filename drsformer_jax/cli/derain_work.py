"""`drsformer derain` as a job: what its units are, and the worker that does them."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drsformer_jax.cli.film as film
from drsformer_jax.cli.derain_image import derain_image
from drsformer_jax.cli.derain_jobs import STANDARD, Job
from drsformer_jax.cli.job_flags import do_job
from drsformer_jax.errors import UserError, one_line
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.ledger import DONE, Row
from drsformer_jax.jobs.status import part_name
from drsformer_jax.jobs.units import Size, Unit
from drsformer_jax.jobs.working import Worker
from drsformer_jax.paths import identity

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

# Of the arguments, what decides pixels and what is written of them; and more that a worker needs.
_DECIDE = (
    *("tile", "overlap", "blend", "no_metadata", "strip_gps"),
    *("quality", "compare", "codec", "crf"),
)
_SETTINGS = (*_DECIDE, "output", "weights", "devices", "no_cache", "quiet", "overwrite")

LoadDerainer = Callable[[argparse.Namespace], "Derainer"]


def restored(
    derainer: Derainer, job: Job, args: argparse.Namespace, stdout: Any = None
) -> tuple[int, int]:
    """Restores a photograph; its height and width. UserError: it cannot be."""
    try:
        return derain_image(derainer, job, args, stdout)
    except (FloatingPointError, MemoryError) as error:
        raise UserError(f"{job.source}: {str(error) or 'not enough memory'}") from error


def run_job(
    args: argparse.Namespace,
    photographs: tuple[Sequence[Job], Sequence[Job]],
    films: tuple[Sequence[film.FilmJob], Sequence[film.FilmJob]],
    load: LoadDerainer,
) -> int:
    """Restores this process's share; the exit code.

    Args:
      photographs, films: those to restore, and those whose results are there and are trusted.
      load: of the network, in the process that works with it.

    Raises:
      UserError: a mistake in the arguments, or the folder is another job's.
    """
    jobs: list[Job | film.FilmJob] = [job for some in (*photographs, *films) for job in some]
    _check_folder(args, jobs)
    units = [_unit(job, args) for job in jobs]
    if args.engine:
        # The devices are for the workers.
        import jax

        jax.config.update("jax_platforms", "cpu")
    folder = JobFolder(args.output)
    made_with = {"command": "drsformer derain", "weights": film.weights_of(args.weights)}
    made_with |= {name.replace("_", "-"): getattr(args, name) for name in _DECIDE}
    folder.begin(made_with, overwrite=args.overwrite)
    are_whole = [True]

    def tell(row: Row) -> None:
        if row["status"] == DONE:
            result = row["result"]
            are_whole.append(result.get("is_whole", True))
            size = f"{result['width']} x {result['height']}"
            print(f"{one_line(args.output / row['id'])}  {size}  {row['seconds']:.1f} s")

    kept = {name: getattr(args, name) for name in _SETTINGS}
    make_worker = functools.partial(worker, argparse.Namespace(**kept), load)
    there: list[Job | film.FilmJob] = [*photographs[1], *films[1]]
    trusted = {_unit(job, args).name for job in there}
    code = do_job(args, folder, units, make_worker, tell, _size_in_header, trusted)
    return code or int(not all(are_whole))


def _unit(job: Job | film.FilmJob, args: argparse.Namespace) -> Unit:
    name = str(job.destination.relative_to(args.output))
    if isinstance(job, film.FilmJob):
        return Unit(name, (str(job.source),), (str(job.destination),), share=(1, 1))
    pages = (str(job.page),) if args.compare else ()
    return Unit(name, (str(job.source),), (str(job.destination), *pages))


def _check_folder(args: argparse.Namespace, jobs: Sequence[Job | film.FilmJob]) -> None:
    """That the results go into a folder that holds none of the inputs.

    Else results that are there would be inputs when the job goes on.
    """
    flag = "--shard" if args.shard else "--engine" if args.engine else "--skip-existing"
    if any(job.destination == args.output or job.source is STANDARD for job in jobs):
        raise UserError(f"{flag}: wants files as inputs, and a folder to write to (-o)")
    if args.skip_existing:  # what is there is left alone, and is no input
        return
    written = {identity(folder) for folder in {job.destination.parent for job in jobs}} - {None}
    for folder in dict.fromkeys(job.source.parent for job in jobs):
        if identity(folder) in written:
            raise UserError(
                f"{flag}: {folder} holds inputs, and results would go there, too: name another "
                "folder (-o), or add --skip-existing"
            )


def _size_in_header(unit: Unit) -> Size:
    from drsformer_jax.data.formats.pillow import size_in_header

    return None if unit.share else size_in_header(Path(unit.sources[0]))


def worker(
    args: argparse.Namespace, load: LoadDerainer, writer: str, stopped: Callable[[], int]
) -> Worker:
    """Makes a worker, in its process."""
    import jax

    folder = JobFolder(args.output)
    folder.open()
    derainer = load(args)
    # Those of the whole job, so that all workers, now and later, restore by the same programs.
    sizes = (size for size in folder.listed().values() if size)
    derainer = derainer.for_sizes(sizes, tile=args.tile, overlap=args.overlap)
    device = jax.devices()[0].device_kind
    work = functools.partial(_do, derainer, args, stopped)
    return Worker(work, folder, writer, device, stopped)


def _do(
    derainer: Derainer,
    args: argparse.Namespace,
    stopped: Callable[[], int],
    unit: Unit,
    worker: Worker,
) -> dict[str, Any] | None:
    from drsformer_jax.data.encoding import format_of

    source, destination = Path(unit.sources[0]), Path(unit.outputs[0])
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror})") from error
    if unit.share:
        return _do_film(derainer, args, stopped, unit, worker)
    form = format_of(destination)
    assert form is not None  # all names were chosen so
    height, width = restored(derainer, Job(source, destination, form), args)
    return {"height": height, "width": width}


def _do_film(
    derainer: Derainer,
    args: argparse.Namespace,
    stopped: Callable[[], int],
    unit: Unit,
    worker: Worker,
) -> dict[str, Any] | None:
    """Restores a share of a film; None if others have yet to do theirs."""
    job = film.FilmJob(Path(unit.sources[0]), Path(unit.outputs[0]))
    (own, count), opened = unit.share or (1, 1), film.open_film(job, args)
    given_up: set[str] = set()

    def takes(number: int) -> bool:
        if number % count != own - 1:  # in turn: parts are few, and as long as each other
            return False
        name = part_name(unit.name, number)
        given_up.update(worker.died_of([name]))
        return name not in given_up

    def around(number: int) -> contextlib.AbstractContextManager[None]:
        return worker.part(part_name(unit.name, number), str(opened.parts.folder))

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = film.derain_film(opened, derainer, args, stopped, takes=takes, around=around)
    if given_up:
        raise UserError(f"{job.source}: {len(given_up)} parts of it: workers died of them")
    width, height = opened.film.look.size_upright
    return None if code is None else {"height": height, "width": width, "is_whole": code == 0}
