"""Errors that are the user's to mend: one line that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence

# So many problems are named in one message; of the others, their number.
MAX_PROBLEMS_NAMED = 20


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
