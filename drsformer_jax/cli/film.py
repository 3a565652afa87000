"""Films named to `drsformer derain`: flags, names of what is written, and what is said."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.cli.derain_checks import check_clashes, check_overwriting
from drsformer_jax.cli.derain_jobs import FILM_SUFFIXES, STANDARD, Naming, is_film
from drsformer_jax.cli.derain_progress import FilmProgress
from drsformer_jax.errors import UserError, missing_extra, no_access, one_line
from drsformer_jax.jobs.stopping import Stopped, listening
from drsformer_jax.paths import identity, nothing_at

if TYPE_CHECKING:
    from drsformer_jax.film.encoding import Encoding
    from drsformer_jax.film.restoring import FilmDerainer, Outcome
    from drsformer_jax.inference.derainer import Derainer

logger = logging.getLogger(__name__)

LARGEST_CRF = 63


def add_film_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what says how films are written."""
    films = parser.add_argument_group(
        "films",
        "A film that is named (.mp4, .mov, .mkv, ...) is written to OUT as a film, frame by frame; "
        "its sound, subtitles and times stay. The same command goes on where a killed one ended.",
    )
    films.add_argument(
        "--crf",
        type=int,
        metavar="Q",
        help=f"quality, 0 to {LARGEST_CRF}: less is better and larger (default: 18)",
    )
    films.add_argument(
        "--codec", default="libx264", metavar="C", help="encoder (default: %(default)s)"
    )


class FilmJob(NamedTuple):
    """A film, and the file to write."""

    source: Path
    destination: Path


def plan_films(args: argparse.Namespace, naming: Naming) -> tuple[list[FilmJob], list[FilmJob]]:
    """Takes the films out of `args.inputs`; writes nothing.

    Returns:
      The films, and those that are there already and were to be skipped.

    Raises:
      UserError: a mistake in the arguments; PyAV is missing.
    """
    sources = list({identity(path): path for path in args.inputs if is_film(path)}.values())
    if not sources:
        return [], []
    if find_spec("av") is None:
        raise missing_extra("av", "video", "a film")
    if is_in_bucket(args.output):
        raise UserError(
            f"-o {args.output}: films are written to this machine's disks: name a folder, and copy"
        )
    if args.compare:
        raise UserError("--compare: is for photographs: derain films without it")
    if args.crf is not None and not 0 <= args.crf <= LARGEST_CRF:
        raise UserError(f"--crf must be 0 to {LARGEST_CRF}, not {args.crf}")
    _encoding(args).encoder()
    jobs = [FilmJob(source, _destination(source, args, naming)) for source in sources]
    check_clashes(jobs, args.output)
    # Path.exists would raise where a name is too long, which stops no other film.
    there = [job for job in jobs if naming.skip_existing and os.path.exists(job.destination)]
    if there:
        logger.warning("%d of %d films are there already", len(there), len(jobs))
    jobs = [job for job in jobs if job not in there]
    written = [job.destination for job in jobs]
    check_overwriting(written, [path for path in args.inputs if path is not STANDARD])
    args.inputs = [path for path in args.inputs if not is_film(path)]
    return jobs, there


def open_films(
    jobs: list[FilmJob], args: argparse.Namespace
) -> tuple[list[FilmDerainer], list[str]]:
    """Looks at films; writes nothing.

    Returns:
      The films, and a message for each that is none or cannot be written as one.

    Raises:
      UserError: the only input is no film.
    """
    films, refused = [], []
    for job in jobs:
        try:
            films.append(open_film(job, args))
        except UserError as error:
            refused.append(str(error))
    if refused and len(jobs) == 1 and not args.inputs:
        raise UserError(refused[0])
    return films, refused


def open_film(job: FilmJob, args: argparse.Namespace) -> FilmDerainer:
    """Looks at a film; UserError: it is none, or cannot be written as one."""
    from drsformer_jax.film.restoring import FilmDerainer

    try:
        return FilmDerainer(*job, _encoding(args), _is_kept(args))
    except PermissionError as error:
        raise UserError(no_access(error)) from error


def _encoding(args: argparse.Namespace) -> Encoding:
    from drsformer_jax.film.encoding import Encoding

    # Else SVT-AV1 prints a page for every part.
    os.environ.setdefault("SVT_LOG", "1")
    return Encoding(args.codec, args.crf)


def _destination(source: Path, args: argparse.Namespace, naming: Naming) -> Path:
    """Where a film is written to.

    Raises:
      UserError: nowhere.
    """
    from drsformer_jax.data.formats.pillow import picture_suffixes
    from drsformer_jax.film.joining import CONTAINERS, suffix_for

    if not source.exists():
        raise nothing_at(source, "film")
    output: Path = args.output
    if output is STANDARD:
        raise UserError("-o -: a film is not written to standard output: name a file or a folder")
    named = {*FILM_SUFFIXES, *picture_suffixes()}
    # Another part of the same job may make the folder at any moment.
    is_file = output.exists() and not output.is_dir()
    if output.is_dir() or not (is_file or output.suffix.lower() in named):
        return output / f"{source.stem}{naming.suffix}{suffix_for(source, args.codec)}"
    if output.suffix.lower() not in CONTAINERS:
        raise UserError(
            f"-o {output}: is neither a folder nor a film to write: {', '.join(CONTAINERS)}"
        )
    if len(args.inputs) > 1:
        raise UserError(f"-o {output}: is one file, for {len(args.inputs)} inputs: name a folder")
    if naming.suffix:
        raise UserError(f"--suffix {naming.suffix}: is for results in a folder, not -o {output}")
    return output


def _is_kept(args: argparse.Namespace) -> Callable[[str], bool]:
    """Of what a file says of itself, by its name, what is written."""
    if args.no_metadata:
        return lambda key: key == "language"
    return lambda key: not (args.strip_gps and re.search("location|gps", key.lower()))


def derain_films(
    films: list[FilmDerainer], derainer: Derainer, args: argparse.Namespace, *, alone: bool
) -> tuple[int, list[str]]:
    """Restores films one after the other.

    Args:
      alone: whether there is one film and no other input.

    Returns:
      0; 1 if not all of one could be restored; or 128 and the number of the signal that ended it.
      And a message for each that failed.

    Raises:
      UserError: the film that is alone failed.
    """
    failures: list[str] = []
    code = 0
    for film in films:
        try:
            with listening() as stopped_by:
                # Alone, it leaves no part to others.
                code = max(code, derain_film(film, derainer, args, stopped_by) or 0)
        except Stopped as stop:
            folder = film.parts.folder
            print(
                one_line(f"stopped; the same command goes on with what is in {folder}"),
                file=sys.stderr,
            )
            return 128 + stop.number, failures
        except UserError as error:
            failures.append(str(error))
    if failures and alone:
        raise UserError(failures[0])
    return code, failures


def derain_film(
    film: FilmDerainer,
    derainer: Derainer,
    args: argparse.Namespace,
    stopped: Callable[[], int],
    **sharing: Any,
) -> int | None:
    """Restores one; 1 if not all of it could be, None if others have yet to do their parts.

    Args:
      stopped: the number of the signal that asks to end, or 0.
      **sharing: as for `FilmDerainer.run`.

    Raises:
      UserError: it cannot be restored or written.
      Stopped: before it was done.
    """
    import tqdm
    from av.error import FFmpegError

    begun, source = time.perf_counter(), film.source
    for note in film.notes:
        print(one_line(f"{source}: {note}"), file=sys.stderr)
    width, height = film.film.look.size_upright
    # What of tiles is to be said is said once, here.
    plan = derainer.plan(height, width, tile=args.tile, overlap=args.overlap)
    tile = max(plan.tile_height, plan.tile_width) if len(plan) > 1 else 0
    # disable=None: a bar on terminals only.
    bar = tqdm.tqdm(total=film.film.frames_expected, unit="frame", disable=args.quiet or None)
    with bar:
        progress = FilmProgress(film.film, bar, stopped)
        try:
            outcome = film.run(
                functools.partial(derainer, tile=tile, overlap=args.overlap, blend=args.blend),
                {
                    "weights": weights_of(args.weights),
                    **{"tile": tile, "overlap": args.overlap, "blend": args.blend},
                },
                overwrite=args.overwrite,
                on_frame=progress,
                **sharing,
            )
        except (FloatingPointError, MemoryError) as error:
            raise UserError(f"{source}: {str(error) or 'not enough memory'}") from error
        except (OSError, FFmpegError) as error:
            begun_in = film.parts.folder
            what_then = f"; the same command goes on with what is in {begun_in}"
            # Where not even that could be made, as of too long a name, it would end here again.
            if not os.path.isdir(begun_in):
                what_then = ": name another folder or file (-o)"
            raise UserError(
                f"{film.destination}: cannot be written ({error.strerror or error}){what_then}"
            ) from error
    if outcome is None:
        return None
    seconds = time.perf_counter() - begun
    speed = f"  {progress.new / seconds:.2f} frames/s" if progress.new else ""
    print(
        f"{one_line(film.destination)}  {width} x {height}  {outcome.frames} frames  "
        f"{seconds:.1f} s{speed}"
    )
    return _told(source, outcome)


def weights_of(weights: Path | str | None) -> str:
    """What tells weights from others, on whatever device they are: hexadecimal digits."""
    from drsformer_jax.inference.exported import is_exported

    if is_exported(weights):  # which holds its parameters itself
        from drsformer_jax.files import sha256

        return sha256(Path(str(weights)))
    from drsformer_jax import load_weights
    from drsformer_jax.checkpoints.fingerprint import fingerprint

    return fingerprint(load_weights(weights).params)


def _told(source: Path, outcome: Outcome) -> int:
    """Says what is not as it should be; the exit code."""
    problems = []
    if outcome.bad_packets:
        problems.append(
            f"{outcome.bad_packets} packets are damaged; what they leave of frames is restored"
        )
    if outcome.rainy:
        problems.append(f"{outcome.rainy} frames could not be restored and are as they were")
    if outcome.is_cut_short:
        problems.append("the file is cut short: what is in it is restored")
    for problem in problems:
        print(one_line(f"{source}: {problem}"), file=sys.stderr)
    return 1 if outcome.rainy or outcome.is_cut_short else 0
