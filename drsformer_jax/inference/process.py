"""The one process that JAX may be used in."""

from __future__ import annotations

import os

# The process that the first Derainer was made in.
_process: int | None = None


def check_process() -> None:
    """That JAX, which a Derainer has started, is used in the process that it was started in.

    Raises:
      RuntimeError: this is a fork of that process. JAX's threads are not in it, and it would wait
        for them for ever.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise RuntimeError(
            f"a Derainer was made in process {_process}, and this is a fork of it, in which JAX "
            "would hang: start processes with multiprocessing.get_context('spawn') and make a "
            "Derainer in each, or use threads"
        )
