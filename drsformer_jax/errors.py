"""Errors that are the user's to mend: one line that says what is wrong and what to do."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

# So many problems are named in one message; of the others, their number.
MAX_PROBLEMS_NAMED = 20
_NAME_AT_MOST = 160
_DIGITS_AT_MOST = 1000

# What file names may hold, and what would break a line or speak to the terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class UserError(Exception):
    """A mistake in what the user gave: the message is one line, the command exits with code 2."""


def missing_extra(module: str, extra: str, purpose: str) -> UserError:
    """The error for an optional dependency that is not installed."""
    return UserError(
        f"{purpose} needs {module}, which is not installed: pip install 'drsformer_jax[{extra}]'"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to a message about a word that nobody knows: the likeliest one, or nothing."""
    likely = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {listing(likely)}?)" if likely else ""


def enumerated(problems: Sequence[str]) -> str:
    """The first problems, one behind the other, and how many more there are."""
    named = "; ".join(problems[:MAX_PROBLEMS_NAMED])
    more = len(problems) - MAX_PROBLEMS_NAMED
    return f"{named}; and {more} more" if more > 0 else named


def listing(names: Iterable[str]) -> str:
    """Names separated by commas, on one line; of many the first ones and how many more there are.

    Names come from files that may be anything: what would break the line is escaped, and of a
    long name only the beginning is shown.
    """
    names = list(names)
    shown = ", ".join(_printable(name) for name in names[:MAX_PROBLEMS_NAMED])
    more = len(names) - MAX_PROBLEMS_NAMED
    return f"{shown}, and {more} more" if more > 0 else shown


def _printable(name: str) -> str:
    clipped = name if len(name) <= _NAME_AT_MOST else f"{name[:_NAME_AT_MOST]}..."
    return clipped if clipped.isprintable() else ascii(clipped)


@contextlib.contextmanager
def damage_in_one_line(place: object) -> Iterator[None]:
    """Whatever Orbax and TensorStore raise on a damaged folder becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{place} is damaged or incomplete: it cannot be read ({type(error).__name__})"
        ) from error


def in_one_line(error: BaseException) -> str:
    """The kind of an exception and the beginning of its text, to be quoted in a UserError."""
    words = words_of(error)
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return told if len(told) <= 240 else f"{told[:240]}..."


def words_of(error: BaseException) -> str:
    """An exception's text on one line, with the quotes that its author wrote and no others.

    A KeyError shows its text as a Python literal, and so does what holds one.
    """
    said = error.args[0] if error.args else None
    if isinstance(said, BaseException):
        return words_of(said)
    text = str(error)
    if isinstance(error, KeyError) and isinstance(said, str):
        is_one_key = len(said.split()) == 1 and said[0] not in "'\""
        text = repr(said) if is_one_key else said
    return " ".join(text.split())


def is_number(text: str) -> bool:
    """Whether digits are a number that Python reads: of several thousand of them it is none."""
    return text.isdecimal() and len(text) <= _DIGITS_AT_MOST


def wrong_key(error: BaseException) -> str:
    """What is wrong with keys of a configuration that became the arguments of a constructor."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return words_of(error)
    return f"no such key: {unknown[1]} (configs/base.py lists all of them)"


def one_line(text: object) -> str:
    """A message with the control characters in it, which names of files can have, as escapes."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], str(text))


def out_of_memory(error: MemoryError) -> str:
    """What to tell of it: the message, if it has one, and what helps."""
    told = one_line(words_of(error))
    return (
        f"this machine's memory is not enough{f' ({told})' if told else ''}: free some, or take "
        "smaller images"
    )


def no_access(error: PermissionError) -> str:
    """What to tell of a file or folder that the system keeps from the user."""
    return one_line(f"{error.filename or 'a file'}: permission denied: get the right to use it")
