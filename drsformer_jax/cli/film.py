"""Films named to `drsformer derain`: flags, names of what is written, and what is said."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.cli.derain_checks import check_clashes, check_overwriting
from drsformer_jax.cli.derain_jobs import FILM_SUFFIXES, STANDARD, Naming, is_film
from drsformer_jax.errors import UserError, missing_extra, no_access, one_line
from drsformer_jax.paths import identity, nothing_at

if TYPE_CHECKING:
    from drsformer_jax.film.restoring import FilmDerainer, Outcome
    from drsformer_jax.inference.derainer import Derainer

logger = logging.getLogger(__name__)

LARGEST_CRF = 63
# How many frames tell how long a film takes; the first one compiles the network.
_TIMED_FRAMES = 4


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
    films.add_argument(
        "--overwrite",
        action="store_true",
        help="begin anew where there are parts of a film that other weights or settings made",
    )


class _Job(NamedTuple):
    source: Path
    destination: Path


def plan_films(args: argparse.Namespace, naming: Naming) -> tuple[list[FilmDerainer], list[str]]:
    """Takes the films out of `args.inputs` and looks at them; writes nothing.

    Returns:
      The films, and a message for each that is none or cannot be written as one.

    Raises:
      UserError: a mistake in the arguments; the only input is no film; PyAV is missing.
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
    from drsformer_jax.film.encoding import Encoding
    from drsformer_jax.film.restoring import FilmDerainer

    # Else SVT-AV1 prints a page for every part.
    os.environ.setdefault("SVT_LOG", "1")
    encoding = Encoding(args.codec, args.crf)
    encoding.encoder()
    jobs = [_Job(source, _destination(source, args, naming)) for source in sources]
    check_clashes(jobs, args.output)
    if naming.skip_existing:
        jobs = [job for job in jobs if not job.destination.exists()]
        if done := len(sources) - len(jobs):
            logger.warning("%d of %d films are there already", done, len(sources))
    written = [job.destination for job in jobs]
    check_overwriting(written, [path for path in args.inputs if path is not STANDARD])
    args.inputs = [path for path in args.inputs if not is_film(path)]
    films, refused = [], []
    for job in jobs:
        try:
            films.append(FilmDerainer(*job, encoding, _is_kept(args)))
        except UserError as error:
            refused.append(str(error))
        except PermissionError as error:
            refused.append(no_access(error))
    if refused and len(sources) == 1 and not args.inputs:
        raise UserError(refused[0])
    return films, refused


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
    if output.is_dir() or not (output.exists() or output.suffix.lower() in named):
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
    from av.error import FFmpegError

    failures: list[str] = []
    code = 0
    for film in films:
        try:
            code = max(code, _derain_film(film, derainer, args))
        except _Stopped as stopped:
            folder = film.parts.folder
            print(
                one_line(f"stopped; the same command goes on with what is in {folder}"),
                file=sys.stderr,
            )
            return 128 + stopped.number, failures
        except UserError as error:
            failures.append(str(error))
        except (FloatingPointError, MemoryError) as error:
            failures.append(f"{film.source}: {str(error) or 'not enough memory'}")
        except (OSError, FFmpegError) as error:
            failures.append(
                f"{film.destination}: cannot be written ({error.strerror or error}); the same "
                f"command goes on with what is in {film.parts.folder}"
            )
    if failures and alone:
        raise UserError(failures[0])
    return code, failures


def _derain_film(film: FilmDerainer, derainer: Derainer, args: argparse.Namespace) -> int:
    """Restores one; 1 if not all of it could be."""
    import tqdm

    from drsformer_jax.checkpoints.fingerprint import fingerprint
    from drsformer_jax.film.restoring import sha256

    begun, source = time.perf_counter(), film.source
    for note in film.notes:
        print(one_line(f"{source}: {note}"), file=sys.stderr)
    width, height = film.film.look.size_upright
    # What of tiles is to be said is said once, here.
    plan = derainer.plan(height, width, tile=args.tile, overlap=args.overlap)
    tile = max(plan.tile_height, plan.tile_width) if len(plan) > 1 else 0
    # Exported networks hold their parameters themselves.
    weights = fingerprint(derainer.params) if derainer.params else sha256(args.weights)
    # disable=None: a bar on terminals only.
    bar = tqdm.tqdm(total=film.film.frames_expected, unit="frame", disable=args.quiet or None)
    with bar, _listening() as received:
        progress = _Progress(film, bar, received)
        outcome = film.run(
            functools.partial(derainer, tile=tile, overlap=args.overlap, blend=args.blend),
            {"weights": weights, "tile": tile, "overlap": args.overlap, "blend": args.blend},
            overwrite=args.overwrite,
            on_frame=progress,
        )
    seconds = time.perf_counter() - begun
    speed = f"  {progress.new / seconds:.2f} frames/s" if progress.new else ""
    print(
        f"{one_line(film.destination)}  {width} x {height}  {outcome.frames} frames  "
        f"{seconds:.1f} s{speed}"
    )
    return _told(source, outcome)


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


class _Progress:
    """Called after each frame: moves the bar, and says once, early on, how long it takes.

    Attributes:
      new: frames that were restored now.
    """

    def __init__(self, film: FilmDerainer, bar: Any, received: list[int]) -> None:
        self._film, self._bar, self._received = film.film, bar, received
        self._done = self.new = 0
        self._begun = 0.0

    def __call__(self, is_new: bool) -> None:
        """Raises _Stopped: a signal was received."""
        if self._received:
            raise _Stopped(self._received[0])
        self._bar.update()
        self._done += 1
        self.new += is_new
        if self.new == 1 and is_new:
            self._begun = time.perf_counter()
        if self.new == _TIMED_FRAMES and is_new and self._film.frames_expected:
            rate = (_TIMED_FRAMES - 1) / (time.perf_counter() - self._begun)
            left = max(0, self._film.frames_expected - self._done)
            self._bar.write(
                f"{one_line(self._film.path)}: about {left} frames to go, {rate:.2f} frames/s: "
                f"{_duration(left / rate)}"
            )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Stopped(BaseException):
    """A signal asked the program to end.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _listening() -> Iterator[list[int]]:
    """Notes SIGINT and SIGTERM, so that no frame is torn apart; a second one works as usual.

    JAX computes in threads of its own, and Python must not end around them.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        signal.signal(number, previous[number])

    with contextlib.suppress(ValueError):  # not in the main thread: leave the signals alone
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)
