"""Keeps Orbax from telling an error at length that a UserError tells in one line."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any


def quiet_orbax() -> None:
    """Drops what Orbax logs, and what its event loop says when an error has closed it.

    For programs: every error of a checkpoint reaches the caller as an exception, too.
    """
    # Imported first, absl makes the logger, and its records say where they come from.
    importlib.import_module("absl.logging")
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(lambda record: False)
    sys.unraisablehook = _ignore_closed_loop


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _ignore_closed_loop(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
