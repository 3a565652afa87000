"""A trace of some training steps: what host and devices did, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from drsformer_jax.errors import UserError

FOLDER = "profile"

# Steps before the trace: the first compiles, the next fills the queue of batches.
WARMUP_STEPS = 2


class StepProfiler:
    """Traces `steps` steps of a run into WORKDIR/profile, after a warm-up.

    Nothing that is computed changes by it. The steps just before and after the trace are waited
    for, so that it holds whole steps; evaluations and checkpoints that fall among them are in it.
    """

    def __init__(
        self, workdir: Path, first_step: int, steps: int, say: Callable[[str], None]
    ) -> None:
        """
        Args:
          workdir: of the run.
          first_step: steps done before this process.
          steps: how many to trace; 0: none, and nothing is done.
          say: prints a line.

        Raises:
          UserError: the folder cannot be made.
        """
        self.folder = workdir / FOLDER
        self._step = first_step
        self._start = first_step + WARMUP_STEPS
        self._end = self._start + steps
        self._enabled, self._tracing = steps > 0, False
        self._say = say
        if self._enabled:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--profile: {self.folder}: {error.strerror or error}") from error

    def advance(self, step: int, computed: Any) -> None:
        """Starts the trace, or ends it, where it is time to.

        Args:
          step: steps done.
          computed: the arrays of the last one.
        """
        self._step = step
        if not self._enabled:
            return
        if step == self._start:
            jax.block_until_ready(computed)
            jax.profiler.start_trace(
                self.folder, create_perfetto_trace=True, profiler_options=_options()
            )
            self._tracing = True
        elif step == self._end:
            jax.block_until_ready(computed)
            self._stop()

    def close(self) -> None:
        """Ends a trace that the end of the run cuts short."""
        if self._tracing:
            self._stop()
        elif self._enabled and self._step < self._start:
            self._say(
                f"--profile: nothing traced, for the run ended after step {self._step:,} and the "
                f"trace would have begun after step {self._start:,}"
            )

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        newest = max(self.folder.glob("plugins/profile/*"), key=lambda path: path.stat().st_mtime)
        self._say(
            f"steps {self._start + 1:,} to {self._step:,} traced: open "
            f"{newest / 'perfetto_trace.json.gz'} at https://ui.perfetto.dev, or all of it with "
            f"`tensorboard --logdir {self.folder}` (pip install xprof tensorboard)"
        )


def _options() -> Any:
    options = jax.profiler.ProfileOptions()
    # Every Python call is an event otherwise: most of the file, and most of the time it costs.
    options.python_tracer_level = 0
    return options
