"""Errors that are the user's to mend: one line that says what is wrong and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

# So many problems are named in one message; of the others, their number.
MAX_PROBLEMS_NAMED = 20
_NAME_AT_MOST = 160


class UserError(Exception):
    """A mistake in what the user gave: the message is one line, the command exits with code 2."""


def missing_extra(module: str, extra: str, purpose: str) -> UserError:
    """The error for an optional dependency that is not installed."""
    return UserError(
        f"{purpose} needs {module}, which is not installed: pip install 'drsformer_jax[{extra}]'"
    )


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
