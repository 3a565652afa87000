"""The `drsformer` command: one entry point, one module a subcommand.

A subcommand's module has `add_arguments(parser)` and `run(args) -> int` (the exit code). It is
imported only when it is the one asked for, and imports what is slow (jax, the network) inside
`run`, so that `--help` answers at once. One that reads a configuration sets the default
`takes_changes`, and gets what is no argument of its own (--config.KEY=VALUE) as `args.changes`; so
does one that takes any number of paths, for argparse leaves those behind a flag over. One that
needs libtpu without a TPU sets `compiles_for_tpu`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import drsformer_jax
from drsformer_jax.cli.devices import leave_libtpu_alone
from drsformer_jax.cli.output import print_safely
from drsformer_jax.cli.parser import Parser
from drsformer_jax.errors import UserError, no_access, one_line, out_of_memory

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A subcommand: where it lives, what `drsformer --help` says of it, and how it is called."""

    module: str
    summary: str
    examples: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    "derain": Command(
        "drsformer_jax.cli.derain",
        "remove the rain from photographs and films",
        (
            "drsformer derain photo.jpg                    # writes derained/photo.png",
            "drsformer derain holiday/ more/*.jpg -o dry   # folders and files",
            "drsformer derain large.tif --tile 512         # where memory is short",
            "drsformer derain clip.mp4                     # killed, the same command goes on",
        ),
    ),
    "explain": Command(
        "drsformer_jax.cli.explain",
        "show what the network looks at in a photograph",
        ("drsformer explain photo.jpg    # draws photo.explained.png",),
    ),
    "serve": Command(
        "drsformer_jax.cli.serve",
        "show a page that derains photographs",
        (
            "drsformer serve                               # then open the address that it prints",
            "curl -F image=@photo.jpg http://127.0.0.1:7860/api/derain -o photo.png",
        ),
    ),
    "convert": Command(
        "drsformer_jax.cli.convert",
        "turn PyTorch weights into a checkpoint, and back",
        (
            "drsformer convert authors.pth drsformer.safetensors",
            "drsformer convert runs/rain200h rain200h.pth  # the newest good checkpoint of a run",
        ),
    ),
    "export": Command(
        "drsformer_jax.cli.export",
        "write the network as one file for other programs",
        (
            "drsformer export rain_small rain.onnx         # for onnxruntime",
            "drsformer export runs/rain200h rain.stablehlo --check photo.jpg",
        ),
    ),
    "push": Command(
        "drsformer_jax.cli.push",
        "publish weights on the Hugging Face hub",
        ("drsformer push runs/rain200h ORG/NAME --license apache-2.0",),
    ),
    "parity": Command(
        "drsformer_jax.cli.parity",
        "compare the network with a PyTorch program, module by module",
        (
            "drsformer parity --weights authors.pth --image photo.png",
            "drsformer parity --weights random:0 --gradients --dtype float64",
        ),
    ),
    "data": Command(
        "drsformer_jax.cli.data",
        "check a data set, build it, or render rain",
        (
            "drsformer data verify DATA/Rain200H --as rain200h",
            "drsformer data make-rain photographs/ rain/   # pairs to train on",
        ),
    ),
    "plan": Command(
        "drsformer_jax.cli.plan",
        "find out what training needs on TPUs not there",
        (
            "drsformer plan --config configs/rain200h.py --topology v5e:4x4",
            "drsformer plan --config configs/demo.py --device cpu",
        ),
    ),
    "models": Command(
        "drsformer_jax.cli.models",
        "list the weights that are known by name",
        ("drsformer models --time    # with the seconds that a photograph takes here",),
    ),
    "info": Command(
        "drsformer_jax.cli.info",
        "tell what is in a file of weights",
        (
            "drsformer info authors.pth",
            "drsformer info runs/rain200h --json run.json  # the newest good checkpoint",
        ),
    ),
    "report": Command(
        "drsformer_jax.cli.run_report",
        "write the page of a training run",
        ("drsformer report runs/rain200h    # writes runs/rain200h/report.html",),
    ),
    "score": Command(
        "drsformer_jax.cli.score",
        "measure PSNR, SSIM or NIQE of derained images",
        (
            "drsformer score derained/ targets/ --protocol rain200",
            "drsformer score derained/ --no-reference niqe  # without targets",
        ),
    ),
    "completion": Command(
        "drsformer_jax.cli.completion",
        "print what a shell needs to complete commands, flags and files",
        ('eval "$(drsformer completion bash)"',),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; sys.argv[1:] if `argv` is None.

    0: done. 1: the subcommand says that part of its work failed. 2: the user's mistake, or stdout
    that cannot be written, told in one line on stderr. 130: interrupted. 141: whoever read the
    output went away; the work is done.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = print_safely("drsformer", lambda: _told(arguments))
    if code == EXIT_INTERRUPTED and argv is None:
        # JAX compiles and computes in threads of its own: where Python ends around them, the
        # process ends with a fault of memory and that exit code. All is closed and flushed.
        os._exit(code)
    return code


def _told(arguments: list[str]) -> int:
    """The exit code, mistakes told on stderr."""
    try:
        return _run(arguments)
    except UserError as error:
        print(f"drsformer: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    except PermissionError as error:
        print(f"drsformer: error: {no_access(error)}", file=sys.stderr)
        return EXIT_USAGE
    except MemoryError as error:
        print(f"drsformer: error: {out_of_memory(error)}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    try:
        parsed, others = _build_parser(arguments).parse_known_args(arguments)
        if others and not getattr(parsed, "takes_changes", False):
            parsed.parser.refuse(others)
        parsed.changes = others
    except SystemExit as request:
        # So argparse ends --help, --status and usage errors, having printed what there is to say.
        return int(request.code or 0)
    if not getattr(parsed, "compiles_for_tpu", False):
        leave_libtpu_alone()
    code: int = parsed.run(parsed)
    return code


def _build_parser(arguments: Sequence[str]) -> Parser:
    """The parser, complete for the one subcommand that `arguments` ask for."""
    # The options of the command itself take no values, so the first other word is the subcommand.
    return _parser({next((word for word in arguments if not word.startswith("-")), None)})


def whole_parser() -> Parser:
    """The parser, complete for all subcommands."""
    return _parser(set(COMMANDS))


def _parser(complete: Collection[str | None]) -> Parser:
    """The parser, complete for some subcommands; the others are only listed."""
    parser = Parser(prog="drsformer", description="DRSformer: rain out of photographs, with JAX.")
    parser.add_argument(
        "--version", action="version", version=f"drsformer {drsformer_jax.__version__}"
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, command in COMMANDS.items():
        description = f"{command.summary[0].upper()}{command.summary[1:]}."
        subparser = subparsers.add_parser(name, help=command.summary, description=description)
        if name in complete:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.examples = command.examples
            subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
