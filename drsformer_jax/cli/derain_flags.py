"""The flags of `drsformer derain`."""

from __future__ import annotations

import argparse
from pathlib import Path

from drsformer_jax.cli.derain_jobs import output_path, path_or_standard
from drsformer_jax.cli.film import add_film_arguments
from drsformer_jax.cli.job_flags import add_job_arguments
from drsformer_jax.cli.restoring import add_restoring_arguments

DEFAULT_OUTPUT = "derained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Remove rain from photographs of any size: each INPUT gives a file of the same base name "
        "in OUT. Grey and 16-bit images stay so, transparency, EXIF and XMP are kept, CMYK becomes "
        "sRGB. An image that cannot be restored does not stop the others; the exit code is then 1."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=path_or_standard,
        metavar="INPUT",
        help="an image, or a folder: all images directly in it; -: an image on standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_path,
        default=Path(DEFAULT_OUTPUT),
        metavar="OUT",
        help="folder to write to, made if missing (default: %(default)s); for a single image also "
        "the file, NAME.png, .jpg, .webp, .avif or .tiff, or - for standard output; photographs "
        "also to a bucket, gs://BUCKET/NAME",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="tell of problems alone: no bar, no lines"
    )
    _add_file_arguments(parser)
    add_restoring_arguments(parser)
    add_film_arguments(parser)
    add_job_arguments(parser)


def _add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what says which files are read and how results are written."""
    files = parser.add_argument_group("files")
    files.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help="take the images in folders below, too, into folders of the same names in OUT; "
        "hidden ones are left out",
    )
    files.add_argument(
        "--ext",
        choices=("auto", "png", "jpg", "webp", "avif", "tiff"),
        help="format of the results; auto: that of each input, jpg for HEIC and png for what is "
        "only read (default: png)",
    )
    files.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help="1 to 100, of jpg, webp and avif (default: 95)",
    )
    files.add_argument(
        "--suffix", default="", metavar="S", help="what is put behind each name: _dry"
    )
    files.add_argument(
        "--skip-existing", action="store_true", help="leave out images whose result is there"
    )
    files.add_argument(
        "--no-metadata", action="store_true", help="write no EXIF, no XMP and no resolution"
    )
    files.add_argument(
        "--strip-gps", action="store_true", help="write EXIF and XMP without where it was taken"
    )
    files.add_argument(
        "--compare",
        action="store_true",
        help="write a page beside each result, NAME.png.html: before and after with a line between "
        "them to move, for any browser, without a network; about 1 MB each",
    )
