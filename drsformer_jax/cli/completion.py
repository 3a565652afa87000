"""`drsformer completion`: a script that lets a shell complete verbs, flags and files."""

from __future__ import annotations

import argparse

from drsformer_jax.buckets import any_path
from drsformer_jax.cli.derain_jobs import output_path, path_or_standard
from drsformer_jax.errors import missing_extra
from drsformer_jax.paths import local_path

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print a script that completes commands, flags and file names: once in a shell by "
        '`eval "$(drsformer completion bash)"`, or in a file that the shell reads when it starts.'
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell to write it for")


def run(args: argparse.Namespace) -> int:
    """Prints it; returns 0.

    Raises:
      UserError: shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise missing_extra("shtab", "completion", "drsformer completion") from error
    from drsformer_jax.cli.main import whole_parser

    parser = whole_parser()
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, how: object) -> None:
    """Marks all arguments of a parser and its subcommands that are paths."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_files(below, how)
        elif action.type in (local_path, any_path, output_path, path_or_standard):
            action.complete = how  # type: ignore[attr-defined]
