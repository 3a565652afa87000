"""What all benchmarks have in common on the outside: flags, tables, files and errors."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_json
from drsformer_jax.models.config import PRESETS
from drsformer_jax.tables import aligned

EXIT_USAGE = 2
SIZE_MULTIPLE = 8


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The benchmark's docstring as it is, and every flag with its default."""


def parser(name: str, description: str | None, *, network: bool = True) -> argparse.ArgumentParser:
    """With --json and, where a `network` is measured, --preset."""
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, formatter_class=_Help
    )
    if network:
        result.add_argument("--preset", default="drsformer", choices=PRESETS, help="the network")
    file, told = Path(f"{name}.json"), "where the figures go"
    result.add_argument("--json", type=Path, default=file, metavar="FILE", help=told)
    return result


def add_comparison(parser: argparse.ArgumentParser, variants: Sequence[str]) -> None:
    """--variants, --runs, and of both libraries --dtype, --matmul-precision and --device."""
    add = parser.add_argument
    default, of_pytorch = ["eager", "channels_last"], "of PyTorch; compiling takes minutes"
    add("--variants", nargs="+", choices=variants, default=default, help=of_pytorch)
    add("--runs", type=positive, default=5, help="turns of all programs")
    activations = "of the activations; bfloat16 is autocast in PyTorch"
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help=activations)
    products = "of float32 products on a GPU, in both libraries: TF32, or float32 (highest)"
    precisions = ("default", "highest")
    add("--matmul-precision", choices=precisions, default="default", help=products)
    add("--device", choices=("cpu", "gpu"), default="cpu", help="of both libraries")


def positive(text: str) -> int:
    """A number of runs, images or threads, as argparse's type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def image_size(text: str) -> int:
    """A side in pixels that the network takes, as argparse's type."""
    size = int(text)
    if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
        raise argparse.ArgumentTypeError(f"must be a positive multiple of 8, not {size}")
    return size


def run(benchmark: Callable[[argparse.Namespace], dict[str, Any]], args: argparse.Namespace) -> int:
    """Runs a benchmark, which prints its tables and returns its figures, and writes the file.

    Returns:
      The exit code: 2, with one line on stderr, for what the user can mend.
    """
    try:
        check_destination("--json", args.json)
        started = time.strftime("%Y-%m-%d %H:%M")
        before = machine.describe()
        print(summary(before), flush=True)
        figures = benchmark(args)
        options = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(args).items()
            if name != "json"
        }
        record = {"date": started, **before, "options": options, **figures}
        write_report("--json", args.json, lambda path: write_json(path, record))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def summary(record: dict[str, Any]) -> str:
    """Machine, the versions that matter most and settings, in a few lines."""
    found = record["machine"]
    told = {name: record["versions"].get(name, "missing") for name in ("python", "jax", "torch")}
    versions = ", ".join(f"{name} {version}" for name, version in told.items())
    settings = ", ".join(f"{name}={value}" for name, value in record["settings"].items())
    return (
        f"{found['processor']} ({' '.join(found['vector_flags'])}), {found['cores']} cores, "
        f"{found['memory_bytes'] / 2**30:.0f} GiB\n{versions}, commit {record['commit']}"
        + (f"\n{settings}" if settings else "")
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be: the first one to the left, numbers to the right."""
    return "\n".join(aligned((header, *rows)))
