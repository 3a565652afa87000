"""What train.py and eval.py share: their exit codes, mistakes told in one line, and their end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from drsformer_jax.cli.devices import leave_libtpu_alone
from drsformer_jax.cli.output import print_safely
from drsformer_jax.errors import UserError, no_access, one_line, out_of_memory, words_of

EXIT_FAILURE = 2
EXIT_INTERRUPTED = 130
SIGNAL_BASE = 128  # of the exit codes of programs that a signal ended


def run_experiment(name: str, work: Callable[[], None]) -> int:
    """Runs `work`, what the program of that file name does; returns the exit code.

    0: done. 2: the user's mistake, or diverged training, told in one line on stderr. 130, 143:
    stopped by SIGINT, SIGTERM, the state saved. 75: another process of the run was lost; start all
    of them again. If stdout cannot be written, as `print_safely` says.
    """
    program = Path(name).name
    return print_safely(program, lambda: _told(program, work))


def _told(program: str, work: Callable[[], None]) -> int:
    """The exit code, mistakes told on stderr."""
    leave_libtpu_alone()
    try:
        work()
    except UserError as error:
        told = one_line(error)
    except PermissionError as error:
        told = no_access(error)
    except MemoryError as error:
        told = out_of_memory(error)
    except KeyboardInterrupt as request:
        number = getattr(request, "number", None)
        return EXIT_INTERRUPTED if number is None else SIGNAL_BASE + number
    except Exception as error:
        return _explain_loss(program, error)
    else:
        return 0
    print(f"{program}: error: {told}", file=sys.stderr)
    return EXIT_FAILURE


def _explain_loss(program: str, error: Exception) -> int:
    """The exit code after the error that another process's end has caused; raises all others."""
    from drsformer_jax.processes import EXIT_TRY_AGAIN, lost_another

    if not lost_another(error):
        raise error
    reason = str(error).strip().partition("\n")[0]
    print(
        f"{program}: error: another process of this run is gone ({reason}): start all of them "
        "again with the same flags, and they go on from the newest checkpoint",
        file=sys.stderr,
    )
    return EXIT_TRY_AGAIN


def end_program(code: int) -> NoReturn:
    """Ends the program with an exit code, together with the other processes of its run."""
    if "jax" in sys.modules:
        from drsformer_jax.processes import leave

        leave(code)
    sys.exit(code)


def checked(build: Callable[[], Any], what: str) -> Any:
    """The result of `build`, a missing key of the configuration being the user's mistake."""
    try:
        return build()
    except (KeyError, AttributeError) as error:
        raise UserError(
            f"--config: {what}: missing key: {words_of(error)} (configs/base.py lists all of them)"
        ) from error
