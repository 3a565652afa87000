"""Errors that are the user's to mend: one line that says what is wrong and what to do."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: the message is one line, the command exits with code 2."""


def missing_extra(module: str, extra: str, purpose: str) -> UserError:
    """The error for an optional dependency that is not installed."""
    return UserError(
        f"{purpose} needs {module}, which is not installed: pip install 'drsformer_jax[{extra}]'"
    )
