"""`drsformer derain`: rainy photographs in, derained PNG files out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.cli.devices import check_devices
from drsformer_jax.errors import UserError
from drsformer_jax.inference.tiles import DEFAULT_OVERLAP, check_tiling

if TYPE_CHECKING:
    from drsformer_jax.inference.derainer import Derainer

DEFAULT_OUTPUT = "derained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Remove rain from photographs of any size: each INPUT gives a PNG file of the same base "
        "name in OUTDIR. Grey and 16-bit images stay so, transparency is kept. An image that "
        "cannot be restored does not stop the others; the exit code is then 1."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="an image, or a folder: all images directly in it",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_OUTPUT),
        metavar="OUTDIR",
        help="folder to write to, made if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="W",
        help="a .safetensors or .pth file, a converted checkpoint or a training workdir "
        "(default: the weights that come with the package)",
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
    jobs = plan_jobs(args.inputs, args.output)

    from drsformer_jax.inference.derainer import Derainer

    if args.devices > 1:
        from drsformer_jax.inference.split import make_cpu_devices

        make_cpu_devices(args.devices)
    check_devices()
    derainer = Derainer.load(args.weights, devices=args.devices)
    if derainer.config.in_channels != 3:
        raise UserError(
            f"{args.weights}: weights for images of {derainer.config.in_channels} channels; "
            "photographs need 3"
        )
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {args.output}: cannot be made ({error.strerror})") from error

    failures = _run_jobs(derainer, jobs, args.tile, args.overlap)
    for message in failures:
        print(f"error: {message}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(jobs)} images failed", file=sys.stderr)
    return 1 if failures else 0


def plan_jobs(inputs: list[Path], output: Path) -> dict[Path, Path]:
    """The output file of every input image, folders opened, in the order given.

    Raises:
      UserError: an input is missing, a folder has no images, or a file would be overwritten
        that is an input, the output of another input, or an image beside its input.
    """
    from drsformer_jax.data.images import list_images

    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output}: is a file, not a folder")
    sources: dict[Path, Path] = {}  # by resolved path: a file given twice is one job
    for given in inputs:
        if given.is_dir():
            found = list_images(given)
            if not found:
                raise UserError(f"{given}: no images in this folder")
        elif given.exists():
            found = [given]
        else:
            raise UserError(f"{given}: no such file or folder")
        for source in found:
            sources.setdefault(source.resolve(), source)

    jobs: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    for source in sources.values():
        destination = output / f"{source.stem}.png"
        rival = taken.setdefault(os.path.normcase(destination.name), source)
        if rival is not source:
            raise UserError(f"{rival} and {source} would both be written to {destination}")
        resolved = destination.resolve()
        if resolved in sources:
            raise UserError(f"{destination} would overwrite an input: choose another folder (-o)")
        if resolved.parent == source.resolve().parent and resolved.exists():
            raise UserError(
                f"{destination} exists beside its input {source}: choose another folder (-o)"
            )
        jobs[source] = destination
    return jobs


def _run_jobs(
    derainer: Derainer, jobs: dict[Path, Path], tile: int | None, overlap: int
) -> list[str]:
    """Restores all images, a line each; returns one message for each that failed."""
    import tqdm

    failures = []
    # disable=None: a bar on terminals only, and none for a single image.
    with tqdm.tqdm(jobs.items(), unit="image", disable=True if len(jobs) == 1 else None) as bar:
        for source, destination in bar:
            start = time.perf_counter()
            try:
                height, width = _derain_file(derainer, source, destination, tile, overlap)
            except UserError as error:
                failures.append(str(error))
                continue
            except FloatingPointError as error:
                failures.append(f"{source}: {error}")
                continue
            except MemoryError:
                failures.append(f"{source}: not enough memory; restore it in tiles: --tile 256")
                continue
            seconds = time.perf_counter() - start
            tqdm.tqdm.write(f"{destination}  {width} x {height}  {seconds:.1f} s")
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

    photo = decode_image(source)
    if photo.frames > 1:
        tqdm.tqdm.write(f"{source}: the first of {photo.frames} images only", file=sys.stderr)
    write_photo(destination, restore_photo(derainer, photo, tile=tile, overlap=overlap))
    height, width = photo.samples.shape[:2]
    return height, width
