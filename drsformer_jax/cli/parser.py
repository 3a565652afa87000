"""argparse with examples in its help and, for a word that it does not know, the likeliest one."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from drsformer_jax.errors import did_you_mean

_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")
_FLAG = re.compile(r"--[a-z][a-z-]*")


class Parser(argparse.ArgumentParser):
    """What it parses has `parser`: the innermost one, of the subcommand."""

    examples: tuple[str, ...] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.set_defaults(parser=self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but it refuses --flag=--, of whose value argparse makes an empty list."""
        for word in itertools.takewhile(lambda word: word != "--", args or ()):
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word.removesuffix('=--')}: -- is no value")
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """The help, and the examples behind it."""
        shown = "".join(f"  {example}\n" for example in self.examples)
        return super().format_help() + (f"\nexamples:\n{shown}" if shown else "")

    def error(self, message: str) -> NoReturn:
        """Ends with 2, having told the message and what may have been meant."""
        if found := _CHOICE.search(message):
            message += did_you_mean(found[1], re.findall(r"[\w.-]+", found[2]))
        super().error(message)

    def refuse(self, unknown: Iterable[str]) -> NoReturn:
        """Ends with 2 over arguments that are none of this parser's."""
        unknown = list(unknown)
        first = next((word for word in unknown if word.startswith("--")), "").partition("=")[0]
        meant = did_you_mean(first, set(_FLAG.findall(super().format_help()))) if first else ""
        self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
