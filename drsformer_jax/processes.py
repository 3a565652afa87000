"""Several processes of one run: joining, working, and leaving together."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.errors import UserError
from drsformer_jax.paths import printable

# Of sysexits.h: try again later. Nothing is wrong with what the user gave.
EXIT_TRY_AGAIN = 75

# Seconds that a process waits for the others before it ends: after success, when the last of them
# may still be writing, and after an error, of which they may know nothing.
PATIENCE_AFTER_SUCCESS, PATIENCE_AFTER_ERROR = 300, 10

# An error message has so many bytes when it is told to the other processes.
MESSAGE_BYTES = 1024

# How long a folder may take to show at other hosts what one of them wrote: network file systems
# keep listings for some seconds.
SECONDS_TO_APPEAR = 20

# In the messages of XLA, Gloo and NCCL when another process is gone.
_SIGNS_OF_LOSS = (
    "gloo",
    "nccl",
    "connection",
    "socket",
    "heartbeat",
    "coordination",
    "barrier",
    "unavailable",
    "deadline_exceeded",
)


def join(coordinator: str | None, processes: int | None, process: int | None, timeout: int) -> None:
    """Makes this process one of several, before any device is touched.

    Args:
      coordinator: HOST:PORT of process 0. None: found out, as are the other two, from the
        environment: TPU pods, GKE, Slurm, Open MPI.
      processes: how many there are.
      process: which one this is.
      timeout: seconds to wait for the others. Then the program ends with a message and exit code
        75: JAX itself would abort.

    Raises:
      UserError: the environment does not say who the others are, or the numbers do not fit.
    """
    # Requests to stop are ours to hear.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the coordinator that the environment names"

    def give_up() -> None:
        print(
            f"{Path(sys.argv[0]).name}: error: not all processes reached {where} within {timeout} "
            "s: start all of them, or look whether that address can be reached from here",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_TRY_AGAIN)

    watchdog = threading.Timer(timeout, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=2 * timeout + 60
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {' '.join(str(error).split())} Outside of TPU pods, GKE, Slurm and "
            "Open MPI give --coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from error
    finally:
        watchdog.cancel()


def leave(code: int) -> NoReturn:
    """Ends the program, once the other processes end too or after some time.

    Threads that are still at work, such as a compilation that nobody waits for, end with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        patience = PATIENCE_AFTER_ERROR if code else PATIENCE_AFTER_SUCCESS
        watchdog = threading.Timer(patience, os._exit, [code])
        watchdog.daemon = True
        watchdog.start()
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
    os._exit(code)


def lost_another(error: Exception) -> bool:
    """Whether an error of JAX says that another process is gone."""
    text = str(error).lower()
    return jax.process_count() > 1 and any(sign in text for sign in _SIGNS_OF_LOSS)


def is_first() -> bool:
    """Whether this process writes what only one may write."""
    return jax.process_index() == 0


def own_share(all_of_them: Sized) -> range:
    """The numbers of what this process works on, where each does its part of a sequence."""
    return range(jax.process_index(), len(all_of_them), jax.process_count())


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes (which have one shape), stacked on a new leading axis."""
    if not jax.distributed.is_initialized():  # asked in a way that starts no device
        return array[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))


def gather_documents(document: Any) -> list[Any]:
    """What the processes have, JSON values, in their order; floats arrive as they are."""
    told = np.frombuffer(json.dumps(document).encode(), np.uint8)
    padded = np.zeros(gather(np.array(len(told))).max(), np.uint8)
    padded[: len(told)] = told
    return [json.loads(one.tobytes().rstrip(b"\0")) for one in gather(padded)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A part of the work that all processes do or none.

    Raises:
      UserError, OSError, MemoryError: here.
      UserError: in another process.
    """
    mistake: UserError | OSError | MemoryError | None = None
    try:
        yield
    except (UserError, OSError, MemoryError) as error:
        mistake = error
    message = np.zeros(MESSAGE_BYTES, np.uint8)
    if mistake is not None:
        told = printable(str(mistake) or type(mistake).__name__).encode()
        encoded = np.frombuffer(told[:MESSAGE_BYTES], np.uint8)
        message[: len(encoded)] = encoded
    messages = gather(message)
    if mistake is not None:
        raise mistake
    for process, message in enumerate(messages):
        if message.any():
            text = message.tobytes().rstrip(b"\0").decode(errors="replace")
            raise UserError(f"process {process}: {text}")


def appears(file: Path) -> bool:
    """Whether a file is there that another process may have written a moment ago."""
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def check_shared(folder: Path) -> None:
    """That a folder is the same one for all processes.

    Raises:
      UserError: it is not.
    """
    other = UserError(
        f"--workdir {folder} is not the folder that process 0 sees: all processes need one on a "
        "shared file system, or in a bucket"
    )
    if is_in_bucket(folder):
        if len(set(gather_documents(str(folder)))) > 1:
            raise other
        return
    if jax.process_count() == 1:
        return
    number = gather(np.frombuffer(uuid.uuid4().bytes, np.uint8))[0]
    token = folder / f".{uuid.UUID(bytes=number.tobytes())}"
    try:
        with together():
            if is_first():
                token.touch()
        with together():
            if not appears(token):
                raise other
    finally:
        if is_first():
            token.unlink(missing_ok=True)
