"""One image of `drsformer derain`: read, restored, and written with what was told of it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.cli.derain_jobs import STANDARD, Job
from drsformer_jax.cli.output import write_whole
from drsformer_jax.errors import UserError, one_line
from drsformer_jax.paths import why_impossible

if TYPE_CHECKING:
    from drsformer_jax.data.decoding import Decoded
    from drsformer_jax.inference.derainer import Derainer


def derain_image(
    derainer: Derainer, job: Job, args: argparse.Namespace, stdout: BinaryIO | None
) -> tuple[int, int]:
    """Restores one file, and writes its page if wanted; returns its height and width.

    Raises:
      UserError: it cannot be decoded or written.
      FloatingPointError, MemoryError: it cannot be restored.
    """
    import tqdm

    from drsformer_jax.data.encoding import DEFAULT_QUALITY, encoded, write_photo
    from drsformer_jax.data.formats.metadata import NO_METADATA, fitted
    from drsformer_jax.inference.photo import restore_photo

    if stdout is None and not is_in_bucket(job.destination):
        for path in (job.destination, job.page) if args.compare else (job.destination,):
            _check_name(job, path)
    photo = _decoded(job.source)
    height, width = photo.samples.shape[:2]
    metadata, notes = NO_METADATA, photo.notes
    if not args.no_metadata:
        metadata, more = fitted(photo.metadata, height, width, location=not args.strip_gps)
        notes += more
    with _named(job.source):
        notes += job.form.losses(photo, metadata)
    for note in notes:
        tqdm.tqdm.write(one_line(f"{job.source}: {note}"), file=sys.stderr)
    with _named(job.source):
        restored = restore_photo(
            derainer, photo, tile=args.tile, overlap=args.overlap, blend=args.blend
        )
        data = encoded(restored, job.form, metadata, quality=args.quality or DEFAULT_QUALITY)
    if stdout is None:
        write_photo(job.destination, data)
    else:
        write_whole(stdout, data)
    if args.compare:
        from drsformer_jax.page.before_after import write_comparison

        write_comparison(job.page, job.destination.name, photo, restored)
    return height, width


def _decoded(source: Path) -> Decoded:
    from drsformer_jax.data.decoding import decode_bytes, decode_image
    from drsformer_jax.inference.memory import check_image

    def check(height: int, width: int) -> None:
        """Before it is decoded, for then the system may end the program."""
        try:
            check_image(height, width)
        except MemoryError as error:
            raise UserError(f"{source}: {error}") from error

    if source is not STANDARD:
        return decode_image(source, max_pixels=check)
    data = sys.stdin.buffer.read()
    if not data:
        raise UserError("-: standard input is empty")
    return decode_bytes(data, "-: standard input", max_pixels=check)


@contextlib.contextmanager
def _named(source: Path) -> Iterator[None]:
    """Puts the name of the image in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _check_name(job: Job, path: Path) -> None:
    """Finds before the work that the file system cannot have a file of that name.

    Args:
      path: of what the job writes.

    Raises:
      UserError: it cannot.
    """
    if why := why_impossible(path):
        raise UserError(
            f"{job.source}: cannot be written to {path} ({why}): alone, with "
            f"-o NAME{job.destination.suffix}, it gets another name"
        )
