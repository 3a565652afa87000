"""`drsformer derain`: rainy photographs in, derained PNG files out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.cli.derain_jobs import Job, plan_jobs
from drsformer_jax.cli.devices import check_devices
from drsformer_jax.cli.film import add_film_arguments, derain_films, plan_films
from drsformer_jax.errors import UserError, one_line
from drsformer_jax.inference.tiles import DEFAULT_OVERLAP, check_tiling
from drsformer_jax.paths import local_path

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

DEFAULT_OUTPUT = "derained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Remove rain from photographs of any size: each INPUT gives a PNG file of the same base "
        "name in OUT. Grey and 16-bit images stay so, transparency is kept, CMYK becomes sRGB. "
        "An image that cannot be restored does not stop the others; the exit code is then 1."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=local_path,
        metavar="INPUT",
        help="an image, or a folder: all images directly in it",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=local_path,
        default=Path(DEFAULT_OUTPUT),
        metavar="OUT",
        help="folder to write to, made if missing (default: %(default)s); for a single image also "
        "the file, NAME.png",
    )
    add_restoring_arguments(parser)
    add_film_arguments(parser)


def add_restoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what says how photographs are restored, and by which network."""
    parser.add_argument(
        "--weights",
        type=local_path,
        metavar="W",
        help="a .safetensors or .pth file, a converted checkpoint, a training workdir, or a name "
        "that `drsformer models` lists (default: the first of those)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="T",
        help="restore in tiles of T x T pixels, a multiple of 8: bounds the memory, and larger "
        "images of all sizes need one compilation; 0: the whole image at once (default: whole, "
        "in tiles only if memory is short)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=DEFAULT_OVERLAP,
        metavar="O",
        help="pixels that neighbouring tiles share (default: %(default)s)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="share each image's rows, and the memory it takes, among N GPUs or TPU cores; on CPU, "
        "N parts of it (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 if an image failed.

    Raises:
      UserError: a mistake in the arguments, found before anything is written.
    """
    check_tiling(args.tile, args.overlap)
    films = plan_films(args)
    jobs = plan_jobs(args.inputs, args.output) if args.inputs else []
    derainer = load_derainer(args)
    code = _derain_photographs(derainer, jobs, args) if jobs else 0
    return max(code, derain_films(films, derainer, args)) if films else code


def _derain_photographs(derainer: Derainer, jobs: list[Job], args: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 if an image failed.

    Raises:
      UserError: the folder cannot be made.
    """
    folder = jobs[0].destination.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {folder}: cannot be made ({error.strerror})") from error

    failures = _run_jobs(derainer, jobs, args.tile, args.overlap)
    for message in failures:
        print(f"error: {one_line(message)}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(jobs)} images failed", file=sys.stderr)
    return 1 if failures else 0


def load_derainer(args: argparse.Namespace) -> Derainer:
    """The network that `add_restoring_arguments` names, on its devices.

    Raises:
      UserError: there is none, or it is none for photographs.
    """
    from drsformer_jax.inference.derainer import Derainer

    if args.devices > 1:
        from drsformer_jax.inference.forward import make_cpu_devices

        make_cpu_devices(args.devices)
    check_devices()
    derainer = Derainer.load(args.weights, devices=args.devices)
    if derainer.config.in_channels != 3:
        raise UserError(
            f"{args.weights}: weights for images of {derainer.config.in_channels} channels; "
            "photographs need 3"
        )
    return derainer


def _run_jobs(derainer: Derainer, jobs: list[Job], tile: int | None, overlap: int) -> list[str]:
    """Restores all images, a line each; returns one message for each that failed."""
    import tqdm

    failures = []
    # disable=None: a bar on terminals only, and none for a single image.
    with tqdm.tqdm(jobs, unit="image", disable=True if len(jobs) == 1 else None) as bar:
        for job in bar:
            source, destination = job.source, job.destination
            start = time.perf_counter()
            try:
                height, width = _derain_file(derainer, source, destination, tile, overlap)
            except UserError as error:
                failures.append(str(error))
                continue
            except (FloatingPointError, MemoryError) as error:
                failures.append(f"{source}: {str(error) or 'not enough memory'}")
                continue
            seconds = time.perf_counter() - start
            tqdm.tqdm.write(f"{one_line(destination)}  {width} x {height}  {seconds:.1f} s")
    return failures


def _derain_file(
    derainer: Derainer, source: Path, destination: Path, tile: int | None, overlap: int
) -> tuple[int, int]:
    """Restores one file; returns its height and width.

    Raises:
      UserError: it cannot be decoded or written.
      FloatingPointError, MemoryError: it cannot be restored.
    """
    import tqdm

    from drsformer_jax.data.decoding import decode_image
    from drsformer_jax.inference.photo import restore_photo, write_photo

    _check_name(source, destination)
    photo = decode_image(source)
    for note in photo.notes:
        tqdm.tqdm.write(one_line(f"{source}: {note}"), file=sys.stderr)
    write_photo(destination, restore_photo(derainer, photo, tile=tile, overlap=overlap))
    height, width = photo.samples.shape[:2]
    return height, width


def _check_name(source: Path, destination: Path) -> None:
    """Finds before the work that the file system cannot have a file of that name.

    Raises:
      UserError: it cannot.
    """
    try:
        destination.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(
            f"{source}: cannot be written to {destination} ({error.strerror}): alone, with "
            "-o NAME.png, it gets another name"
        ) from error
