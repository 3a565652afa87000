"""`drsformer data`: check a data set, build it into ArrayRecord files, render rain."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import drsformer_jax.datasets.sharded as sharded
from drsformer_jax.cli.job_flags import add_job_arguments, do_job, is_job
from drsformer_jax.cli.reports import check_destination, images_below, write_report
from drsformer_jax.data.sets import SETS, get_set
from drsformer_jax.datasets.build import FORMS, build
from drsformer_jax.errors import UserError
from drsformer_jax.paths import local_path, why_impossible

EXIT_FAULTS = 1

MOST_VERSIONS = 10**9  # far beyond any disk, and what Python counts

LEVELS = ("light", "medium", "heavy", "mixed")

_VERIFY = """\
PATH holds train/ and test/, each with input/ and target/, or is one such split; other names in use
are known, too. Every file is decoded. Looked for: the number of pairs (--as), files without
partners or that cannot be read, pairs of different size, rainy images that equal their target,
pictures that are twice in a split, and those of the test split that are in the training split, too:
by equal pixels, or by the look, also flipped, turned, scaled or compressed. Exit code 0: nothing is
wrong; 1: something is; 2: PATH is no data set.
"""

_BUILD = """\
Writes OUT/SET/FORM/VERSION, for TensorFlow Datasets (tfds.data_source, without TensorFlow) and for
training with --config.data.kind=records --config.data.train=OUT/SET --config.data.val=OUT/SET.
"""

_MERGE = """\
Writes OUT/SET/FORM/VERSION when all parts (--shard of `drsformer data build`) are done, byte for
byte what one process writes, and removes what they have left in OUT/.drsformer.
"""

_RAIN = """\
Writes OUT_DIR/input/NAME.png and OUT_DIR/target/NAME.png; OUT_DIR must not be there or be empty.
The same seed gives the same rain.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer data` and its commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    names = ", ".join(SETS)

    def command(name: str, summary: str, epilog: str, work: Any) -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}."
        added = commands.add_parser(name, help=summary, description=description, epilog=epilog)
        added.set_defaults(work=work)
        return added

    verify = command("verify", "say what is wrong with a data set on disk", _VERIFY, _verify)
    verify.add_argument("path", metavar="PATH", type=local_path)
    verify.add_argument("--as", dest="data_set", metavar="SET", help=f"what it should be: {names}")
    verify.add_argument(
        "--json", type=local_path, metavar="FILE", help="writes the report as JSON, too"
    )

    builder = command("build", "write a data set as ArrayRecord files", _BUILD, _build)
    builder.add_argument("name", metavar="SET", help=names)
    builder.add_argument(
        "source", metavar="PATH", type=local_path, help="folder it was unpacked to"
    )
    builder.add_argument("out", metavar="OUT", type=local_path, help="folder of all sets")
    builder.add_argument(
        "--form",
        choices=FORMS,
        default=FORMS[0],
        help="files as they are, or samples: faster to read (default: %(default)s)",
    )
    builder.add_argument(
        "--partial", action="store_true", help="take what is there, whatever the counts should be"
    )
    add_job_arguments(builder)

    merger = command("merge", "write the set that parts have read", _MERGE, _merge)
    merger.add_argument("out", metavar="OUT", type=local_path, help="as of data build --shard")

    rain = command("make-rain", "render rain over clean photographs", _RAIN, _make_rain)
    rain.add_argument("clean", metavar="CLEAN_DIR", type=local_path, help="folder of photographs")
    rain.add_argument("out", metavar="OUT_DIR", type=local_path)
    rain.add_argument("--level", choices=LEVELS, default="mixed", help="default: %(default)s")
    rain.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    rain.add_argument(
        "--versions", type=int, default=1, help="rains over each photograph (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command asked for; returns the exit code or raises UserError."""
    code: int = args.work(args)
    return code


def _verify(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from drsformer_jax.datasets.verification import verify
    from drsformer_jax.datasets.verification_report import document, text
    from drsformer_jax.files import write_json

    check_destination("--json", args.json, images_below([args.path]))
    data_set = get_set(args.data_set) if args.data_set else None
    with tqdm(unit="image", leave=False, disable=None) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        found = verify(args.path, data_set, on_file=show)
    print(text(found))
    write_report("--json", args.json, lambda path: write_json(path, document(found)))
    return EXIT_FAULTS if found.faults else 0


def _build(args: argparse.Namespace) -> int:
    if is_job(args):
        return _build_in_job(args)
    if sys.stderr.isatty():
        print("checking every file, then writing ...", file=sys.stderr, flush=True)
    written = build(args.name, args.source, args.out, form=args.form, partial=args.partial)
    return _tell_size(written)


def _build_in_job(args: argparse.Namespace) -> int:
    folder, units = sharded.begin(
        args.name, args.source, args.out,
        form=args.form, partial=args.partial, overwrite=args.overwrite,
    )  # fmt: skip
    make_worker = functools.partial(sharded.make_worker, args.out)
    code = do_job(args, folder, units, make_worker, lambda row: None)
    if args.engine and not code:
        return _merge(args)
    if not code:
        print(f"when all parts are done: drsformer data merge {args.out}")
    return code


def _merge(args: argparse.Namespace) -> int:
    return _tell_size(sharded.merge(args.out))


def _tell_size(written: Path) -> int:
    size = sum(path.stat().st_size for path in written.iterdir())
    print(f"{written}: {size / 1e6:,.1f} MB")
    return 0


def _make_rain(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from drsformer_jax.data.images import list_images, write_png
    from drsformer_jax.data.sources import raise_problems
    from drsformer_jax.data.splits import names_used_twice
    from drsformer_jax.data.synthetic.rendered import SyntheticRain
    from drsformer_jax.files import atomic_folder

    if args.versions < 1:
        raise UserError(f"--versions {args.versions}: must be positive")
    if args.versions > MOST_VERSIONS:
        raise UserError(f"--versions {args.versions}: must be at most {MOST_VERSIONS}")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must not be negative")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out}: is there already and not an empty folder: name another one")
    if not args.out.absolute().parent.is_dir():
        raise UserError(f"{args.out}: there is no folder {args.out.parent}, make it first")
    # Only here do names matter: two photographs of one name would become one file.
    raise_problems(args.clean, names_used_twice(list_images(args.clean)))
    source = SyntheticRain(args.clean, args.level, args.seed, args.versions, cache=False)
    # Of the last version of each photograph: its number has the most digits.
    last = range(len(source) - len(source) // args.versions, len(source))
    _check_longest(args.out, map(source.name, last))
    try:
        with atomic_folder(args.out) as folder, _named(args.out, folder):
            for side in ("input", "target"):
                (folder / side).mkdir()
            for index in tqdm(range(len(source)), unit="image", leave=False, disable=None):
                pair = source[index]
                for side, image in (("input", pair["input"]), ("target", pair["target"])):
                    write_png(folder / side / f"{pair['name']}.png", image)
    except OSError as error:
        raise UserError(f"{args.out}: cannot be written ({error.strerror or error})") from error
    print(f"{args.out}: {len(source):,} pairs, rain {args.level}, seed {args.seed}")
    return 0


def _check_longest(out: Path, names: Iterable[str]) -> None:
    """Finds before the work that the file system cannot have files of such names.

    Raises:
      UserError: it cannot have that of the longest.
    """
    longest = f"{max(names, key=lambda name: len(os.fsencode(name)))}.png"
    # Beside OUT, which is not there yet.
    if why := why_impossible(out.absolute().parent / longest):
        raise UserError(f"{out}: cannot hold {longest} ({why}): give the photograph a shorter name")


@contextlib.contextmanager
def _named(out: Path, folder: Path) -> Iterator[None]:
    """Has errors name OUT in the place of `folder`, where it lies until it is complete."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(folder), str(out))) from error
